import { revalidateTag } from 'next/cache';
import { tagsRoute } from 'crieur-cache/next';

export const POST = tagsRoute({ secret: process.env.CRIEUR_WEBHOOK_SECRET, revalidateTag });
