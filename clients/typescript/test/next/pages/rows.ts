import { unstable_cache } from 'next/cache';
import { cacheLife, cacheTag } from 'next/cache';

/** The test is the database. */
export async function row(name: string): Promise<string> {
  const answer = await fetch(`${process.env.ROWS_URL}/${encodeURIComponent(name)}`, { cache: 'no-store', signal: new AbortController().signal });
  return answer.text();
}

/** In a page that the build makes. */
export async function list(): Promise<string> {
  'use cache';
  cacheLife('max');
  cacheTag('liste', 'ville-Thiès');
  return row('liste');
}

/** In a page that is made at each request. */
export async function property(id: string): Promise<string> {
  'use cache';
  cacheLife('max');
  cacheTag(`bien-${id}`);
  return row(`bien-${id}`);
}

export const old = unstable_cache(async () => row('ancien'), ['ancien'], { tags: ['ancien'] });
