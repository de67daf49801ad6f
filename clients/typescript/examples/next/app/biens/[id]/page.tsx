import Link from 'next/link';
import { notFound } from 'next/navigation';
import { connection } from 'next/server';
import { Suspense } from 'react';
import { bookVisit } from '@/app/actions';
import { Notice, francs } from '@/components/properties';
import { Submit } from '@/components/submit';
import { freeSlots, numberOf, property } from '@/lib/data';

type Props = { params: Promise<{ id: string }>; searchParams: Promise<{ etat?: string | string[] }> };

export default function PropertyPage(props: Props) {
  return (
    <Suspense fallback={<p>Chargement…</p>}>
      <Detail {...props} />
    </Suspense>
  );
}

async function Detail({ params, searchParams }: Props) {
  await connection();
  const id = numberOf((await params).id);
  // Both reads begin at once. What throws for a missing page comes after them, outside of any fetcher.
  const [found, slots] = id ? await Promise.all([property(id), freeSlots(id)]) : [null, []];
  if (!id || !found) notFound();
  return (
    <>
      <Notice state={(await searchParams).etat} />
      <h1>{found.title}</h1>
      <p><Link href={`/ville/${encodeURIComponent(found.city)}`}>{found.city}</Link></p>
      <p className="price">{francs(found.price)} <small>par mois</small></p>
      <p>{found.description}</p>
      <h2>Visiter</h2>
      {slots.length === 0 && <p>Plus aucun créneau cette semaine.</p>}
      <div className="slots">
        {slots.map((slot) => (
          <form key={slot} action={bookVisit}>
            <input type="hidden" name="property" value={id} />
            <input type="hidden" name="slot" value={slot} />
            <Submit>{slot}</Submit>
          </form>
        ))}
      </div>
    </>
  );
}
