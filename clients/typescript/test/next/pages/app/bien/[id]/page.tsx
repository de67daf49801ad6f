import { connection } from 'next/server';
import { Suspense } from 'react';
import { property } from '../../../rows';

type Props = { params: Promise<{ id: string }> };

export default function Page({ params }: Props) {
  return <Suspense fallback={<p>…</p>}><Property params={params} /></Suspense>;
}

async function Property({ params }: Props) {
  await connection();
  return <p>{await property((await params).id)}</p>;
}
