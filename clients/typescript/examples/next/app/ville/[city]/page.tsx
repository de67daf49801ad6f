import { connection } from 'next/server';
import { Suspense } from 'react';
import { PropertyList } from '@/components/properties';
import { propertiesIn } from '@/lib/data';

type Props = { params: Promise<{ city: string }> };

export default function CityPage({ params }: Props) {
  return (
    <Suspense fallback={<p>Chargement…</p>}>
      <City params={params} />
    </Suspense>
  );
}

async function City({ params }: Props) {
  await connection();
  const city = decodeURIComponent((await params).city);
  return (
    <>
      <h1>Biens à louer : {city}</h1>
      <PropertyList properties={await propertiesIn(city)} />
    </>
  );
}
