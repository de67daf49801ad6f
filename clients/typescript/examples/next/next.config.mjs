// The example is right with cache components and without; the test builds both. Here: with, in `.next`.
const cacheComponents = process.env.CACHE_COMPONENTS !== 'false';

/** @type {import('next').NextConfig} */
export default {
  cacheComponents,
  partialPrefetching: cacheComponents,
  // Part of cacheComponents; lib/catalogue.ts has it without them, too.
  experimental: { useCache: true },
  distDir: process.env.DIST_DIR ?? '.next',

  // These two are loaded by Node as they are: one connection for the whole process, whatever route asks, and
  // the deployment (Vercel, `output: 'standalone'`) takes ioredis and @upstash/redis along.
  serverExternalPackages: ['crieur-cache', 'postgres'],

  // In a repository with several lock files, say which folder is the application's.
  turbopack: { root: import.meta.dirname },
};
