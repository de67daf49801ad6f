// What the pages read. Each key is one that a rule of crieur makes (dousell.rules.toml), byte for byte: when a row
// changes, crieur deletes the keys of that row. So no TTL here has to be short, and no action has to delete.
//
// A fetcher lets an error of the database through. Never answer [] or null for it: that would be stored.

import { getOrSetCache } from 'crieur-cache/env';
import { sql } from './db';

export interface Property {
  id: number;
  title: string;
  city: string;
  price: number;
  description: string;
}

/** All that can be rented: the key is `properties:all_properties_public`. */
export function allProperties(): Promise<Property[]> {
  return getOrSetCache(
    'all_properties_public',
    async () => await sql<Property[]>`
      SELECT id, title, city, price, description FROM properties WHERE status = 'published' ORDER BY id`,
    { namespace: 'properties', ttl: 'list' },
  );
}

/** The same of one city: `properties:city:Dakar`. */
export function propertiesIn(city: string): Promise<Property[]> {
  return getOrSetCache(
    `city:${city}`,
    async () => await sql<Property[]>`
      SELECT id, title, city, price, description FROM properties
      WHERE status = 'published' AND city = ${city} ORDER BY id`,
    { namespace: 'properties', ttl: 'search' },
  );
}

/** One of them: `properties:detail:1`. That there is none is a value as well, and is stored. */
export function property(id: number): Promise<Property | null> {
  return getOrSetCache(
    `detail:${id}`,
    async () => {
      const [row] = await sql<Property[]>`
        SELECT id, title, city, price, description FROM properties WHERE status = 'published' AND id = ${id}`;
      return row ?? null;
    },
    { namespace: 'properties', ttl: 'detail' },
  );
}

/** When a visit is possible. */
export const SLOTS = ['lundi 10h', 'mercredi 15h', 'samedi 11h'];

/** What is left of them: `available_slots:1`. */
export function freeSlots(propertyId: number): Promise<string[]> {
  return getOrSetCache(
    `available_slots:${propertyId}`,
    async () => {
      const taken = await sql<{ slot: string }[]>`SELECT slot FROM visit_bookings WHERE property_id = ${propertyId}`;
      return SLOTS.filter((slot) => !taken.some((row) => row.slot === slot));
    },
    { ttl: 'slots' },
  );
}

export interface Payment {
  period: string;
  amount: number;
}

/** The payments of a lease: `payments:lease:1`. To show them; whether a month is paid, the database decides. */
export function payments(leaseId: number): Promise<Payment[]> {
  return getOrSetCache(
    `payments:lease:${leaseId}`,
    async () => await sql<Payment[]>`
      SELECT period, amount FROM rental_payments WHERE lease_id = ${leaseId} ORDER BY period DESC`,
    { ttl: 'dashboard' },
  );
}

export interface Lease {
  tenant: string;
  rent: number;
  title: string;
}

/** No rule makes a key for a lease, so a lease is not cached. */
export async function lease(id: number): Promise<Lease | undefined> {
  const [row] = await sql<Lease[]>`
    SELECT tenant, rent, title FROM leases JOIN properties ON properties.id = property_id WHERE leases.id = ${id}`;
  return row;
}

/** The number in an address, or undefined: `/biens/abc` asks nobody. */
export function numberOf(text: string): number | undefined {
  return /^[1-9]\d{0,8}$/.test(text) ? Number(text) : undefined;
}
