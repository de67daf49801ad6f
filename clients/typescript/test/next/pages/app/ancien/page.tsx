import { connection } from 'next/server';
import { Suspense } from 'react';
import { old } from '../../rows';

export default function Page() {
  return <Suspense fallback={<p>…</p>}><Old /></Suspense>;
}

async function Old() {
  await connection();
  return <p>{await old()}</p>;
}
