import { Redis } from 'ioredis';
import { consoleLog } from 'crieur-cache';
import { fromIoredis } from 'crieur-cache/ioredis';
import { createNextHandler } from 'crieur-cache/next-handler';

export default createNextHandler({
  store: () => fromIoredis(new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: 0 })),
  on: consoleLog,
});
