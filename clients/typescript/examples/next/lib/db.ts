import postgres from 'postgres';

// No connection is opened before the first query, so `next build` needs no database. The variable on `globalThis`
// keeps the one pool when `next dev` loads this file again.
const global = globalThis as { sql?: postgres.Sql };

export const sql = (global.sql ??= postgres(process.env.DATABASE_URL ?? '', { max: 10, onnotice: () => {} }));
