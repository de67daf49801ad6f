import { revalidatePath, revalidateTag } from 'next/cache';

// What the application does itself, without crieur.
export async function POST(request: Request) {
  const { tag, path } = await request.json();
  if (tag) revalidateTag(tag, { expire: 0 });
  if (path) revalidatePath(path);
  return new Response();
}
