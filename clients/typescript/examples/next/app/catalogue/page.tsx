import { connection } from 'next/server';
import { Suspense } from 'react';
import { francs } from '@/components/properties';
import { offers, summary } from '@/lib/catalogue';

export default function CataloguePage() {
  return (
    <>
      <h1>Catalogue</h1>
      <Suspense fallback={<p>Chargement…</p>}>
        <Catalogue />
      </Suspense>
    </>
  );
}

async function Catalogue() {
  // Without this line `next build` would need the database.
  await connection();
  const [rows, { most, visits }] = await Promise.all([offers(), summary()]);
  return (
    <>
      <ul>
        {rows.map(({ id, title, city, price }) => <li key={id}>{title}, {city} : {francs(price)}</li>)}
      </ul>
      <p>Jusqu’à {francs(most)} par mois. Visites réservées : {visits}.</p>
    </>
  );
}
