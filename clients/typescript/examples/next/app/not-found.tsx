import Link from 'next/link';

export default function NotFound() {
  return (
    <>
      <h1>Introuvable</h1>
      <p>Cette page n’existe pas, ou plus. <Link href="/">Voir tous les biens</Link></p>
    </>
  );
}
