import { notFound } from 'next/navigation';
import { connection } from 'next/server';
import { Suspense } from 'react';
import { payRent } from '@/app/actions';
import { Notice, francs } from '@/components/properties';
import { Submit } from '@/components/submit';
import { lease, numberOf, payments } from '@/lib/data';

type Props = { params: Promise<{ id: string }>; searchParams: Promise<{ etat?: string | string[] }> };

export default function LeasePage(props: Props) {
  return (
    <Suspense fallback={<p>Chargement…</p>}>
      <Rent {...props} />
    </Suspense>
  );
}

async function Rent({ params, searchParams }: Props) {
  await connection();
  const id = numberOf((await params).id);
  const found = id && (await lease(id));
  if (!id || !found) notFound();
  const paid = await payments(id);
  const period = new Date().toISOString().slice(0, 7);
  return (
    <>
      <Notice state={(await searchParams).etat} />
      <h1>Loyer : {found.title}</h1>
      <p>{found.tenant}, {francs(found.rent)} par mois</p>
      <form action={payRent}>
        <input type="hidden" name="lease" value={id} />
        <label>Mois <input type="month" name="period" defaultValue={period} required /></label>
        <Submit>Payer {francs(found.rent)}</Submit>
      </form>
      <h2>Paiements</h2>
      {paid.length === 0 && <p>Aucun paiement.</p>}
      <ul>
        {paid.map(({ period, amount }) => <li key={period}>{period} : {francs(amount)}</li>)}
      </ul>
    </>
  );
}
