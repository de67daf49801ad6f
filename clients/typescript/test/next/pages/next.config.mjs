import { fileURLToPath } from 'node:url';

// Without Redis: what Next keeps for itself, with the route for crieur's messages.
const handler = process.env.REDIS === 'true' && fileURLToPath(new URL('cache-handler.mjs', import.meta.url));

/** @type {import('next').NextConfig} */
export default {
  cacheComponents: true,
  distDir: process.env.DIST_DIR,
  serverExternalPackages: ['crieur-cache'],
  turbopack: { root: import.meta.dirname },
  ...(handler && { cacheHandler: handler, cacheHandlers: { default: handler, remote: handler }, cacheMaxMemorySize: 0 }),
};
