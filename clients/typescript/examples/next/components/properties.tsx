import Link from 'next/link';
import type { Property } from '@/lib/data';

export const francs = (amount: number) => `${amount.toLocaleString('fr-FR').replace(/\s/g, ' ')} FCFA`;

export function PropertyList({ properties }: { properties: Property[] }) {
  if (!properties.length) return <p>Aucun bien pour le moment.</p>;
  return (
    <ul className="cards">
      {properties.map(({ id, title, city, price, description }) => (
        <li key={id}>
          <h2><Link href={`/biens/${id}`}>{title}</Link></h2>
          <p>{city}</p>
          <p className="price">{francs(price)} <small>par mois</small></p>
          <p>{description}</p>
        </li>
      ))}
    </ul>
  );
}

/** What an action has to say, from the address that it sent the browser to. */
const NOTICES: Record<string, string> = {
  paye: 'Paiement enregistré. Merci !',
  'deja-paye': 'Ce mois est déjà payé.',
  reserve: 'Visite réservée. À bientôt !',
  pris: 'Ce créneau vient d’être pris. Choisissez-en un autre.',
  busy: 'Opération déjà en cours…',
  unavailable: 'Service momentanément indisponible : rien n’a été enregistré. Réessayez dans un instant.',
  failed: 'Une erreur est survenue. Vérifiez avant de réessayer.',
  lost: 'Une erreur est survenue. Vérifiez avant de réessayer.',
};

export function Notice({ state }: { state: string | string[] | undefined }) {
  const text = typeof state === 'string' && Object.hasOwn(NOTICES, state) && NOTICES[state];
  return text ? <p className="notice" role="status">{text}</p> : null;
}
