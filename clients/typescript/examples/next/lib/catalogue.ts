// What Next keeps by itself, and for ever: nothing here expires by time. When a row changes, crieur posts the tags of that row
// to app/api/crieur, and Next forgets what has them. `crieur.toml` says which tags a row has.

import { cacheLife, cacheTag, unstable_cache } from 'next/cache';
import { sql } from './db';

export interface Offer {
  id: number;
  title: string;
  city: string;
  price: number;
}

/** All that can be rented, the cheapest first. */
export async function offers(): Promise<Offer[]> {
  'use cache';
  cacheLife('max');
  cacheTag('properties');
  const rows = await sql<Offer[]>`
    SELECT id, title, city, price FROM properties WHERE status = 'published' ORDER BY price, id`;
  // Next keeps plain objects, and a row of the client is one with more to it.
  return rows.map(({ id, title, city, price }) => ({ id, title, city, price }));
}

/** The same by the older function: the most expensive, and how many visits are booked. */
export const summary = unstable_cache(
  async () => {
    const [{ most }] = await sql<{ most: number }[]>`
      SELECT coalesce(max(price), 0) AS most FROM properties WHERE status = 'published'`;
    const [{ visits }] = await sql<{ visits: number }[]>`SELECT count(*)::int AS visits FROM visit_bookings`;
    return { most, visits };
  },
  ['summary'],
  { tags: ['properties', 'visits'] },
);
