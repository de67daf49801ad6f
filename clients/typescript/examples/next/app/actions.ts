'use server';

// Both actions do the same three things: take a lock, write what the database allows once, and send the browser on.
// A real application first asks who is there; an action can be called by anybody.

import { invalidateCacheBatch, withLock } from 'crieur-cache/env';
import { redirect } from 'next/navigation';
import { SLOTS, numberOf } from '@/lib/data';
import { sql } from '@/lib/db';

export async function payRent(form: FormData) {
  const leaseId = numberOf(String(form.get('lease')));
  const period = String(form.get('period'));
  if (!leaseId || !/^\d{4}-\d{2}$/.test(period)) throw new Error('payRent: the form has no lease or no month');
  const page = `/baux/${leaseId}`;

  const result = await withLock(
    `payment:${leaseId}`,
    async () => {
      // Here stands the payment service, with lease and month as its idempotency key. No row comes back when the month
      // is paid already: the UNIQUE in schema.sql holds whatever becomes of the lock.
      const [paid] = await sql`
        INSERT INTO rental_payments (lease_id, period, amount)
        SELECT id, ${period}, rent FROM leases WHERE id = ${leaseId}
        ON CONFLICT (lease_id, period) DO NOTHING RETURNING id`;
      await showOwnWrite(`payments:lease:${leaseId}`);
      // redirect() throws. withLock frees the lock and lets that through.
      redirect(`${page}?etat=${paid ? 'paye' : 'deja-paye'}`);
    },
    { expireSeconds: 30, retries: 1 }, // One attempt: the second click of a double click does not wait.
  );
  // So only what went wrong comes to here.
  if (!result.success && result.reason !== 'busy') console.error('payRent', result.reason, result.cause);
  redirect(`${page}?etat=${result.success ? 'paye' : result.reason}`);
}

export async function bookVisit(form: FormData) {
  const propertyId = numberOf(String(form.get('property')));
  const slot = String(form.get('slot'));
  if (!propertyId || !SLOTS.includes(slot)) throw new Error('bookVisit: the form has no property or no slot');

  const result = await withLock(
    `visit:${propertyId}:${slot}`,
    async () => {
      const [booked] = await sql`
        INSERT INTO visit_bookings (property_id, slot) SELECT id, ${slot} FROM properties WHERE id = ${propertyId}
        ON CONFLICT (property_id, slot) DO NOTHING RETURNING id`;
      await showOwnWrite(`available_slots:${propertyId}`);
      return Boolean(booked);
    },
    { expireSeconds: 10, retries: 3 }, // Somebody else's visit: wait a moment, and see that the slot is taken.
  );
  if (!result.success && result.reason !== 'busy') console.error('bookVisit', result.reason, result.cause);
  redirect(`/biens/${propertyId}?etat=${result.success ? (result.data ? 'reserve' : 'pris') : result.reason}`);
}

/**
 * crieur deletes the key anyway, a few milliseconds after the COMMIT. This only makes sure that the page behind the
 * redirect shows the visitor's own write. Never before the COMMIT.
 */
async function showOwnWrite(key: string) {
  await invalidateCacheBatch([key]);
}
