import Link from 'next/link';
import { connection } from 'next/server';
import { Suspense } from 'react';
import { PropertyList } from '@/components/properties';
import { allProperties } from '@/lib/data';

// The frame is made by `next build`. What is inside of Suspense is rendered for each request, from the cache.
export default function Home() {
  return (
    <>
      <h1>Biens à louer</h1>
      <Suspense fallback={<p>Chargement…</p>}>
        <Properties />
      </Suspense>
    </>
  );
}

async function Properties() {
  // Without this line `next build` would render the list once and keep it.
  await connection();
  const properties = await allProperties();
  const cities = [...new Set(properties.map(({ city }) => city))].sort((a, b) => a.localeCompare(b, 'fr'));
  return (
    <>
      <nav className="cities">
        {cities.map((city) => <Link key={city} href={`/ville/${encodeURIComponent(city)}`}>{city}</Link>)}
      </nav>
      <PropertyList properties={properties} />
    </>
  );
}
