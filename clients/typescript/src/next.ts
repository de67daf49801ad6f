// The route that crieur posts tags to: `kind = "webhook"` of its sinks. Nothing of Next is imported here: whoever makes the
// route gives `revalidateTag`, so this loads without Next, and whatever else has tags can use it.

/** What the route needs. */
export interface TagsRouteOptions {
  /** The secret of the sink, `whsec_…`. Several while one replaces another: as a list, or with spaces between them. */
  secret: string | readonly string[] | undefined;
  /** Next's own, of `next/cache`. Whatever takes a tag will do. */
  revalidateTag: (tag: string, profile: { expire: 0 }) => unknown;
}

/** So far may the clocks of both machines be apart, and so long is a message taken. */
const TOLERANCE_SECONDS = 300;
/** The most that is read of somebody who has not shown a signature yet. */
const BODY_BYTES_MAX = 1024 * 1024;
/** Next ignores longer ones (`NEXT_CACHE_TAG_MAX_LENGTH`). */
const TAG_LENGTH_MAX = 256;
/** So many messages are remembered. One that was forgotten expires its tags once more, which costs a miss. */
const REMEMBERED_MAX = 10_000;

const encoder = new TextEncoder();

const answer = (status: number, said: Record<string, unknown>) =>
  new Response(JSON.stringify(said), { status, headers: { 'content-type': 'application/json' } });
const refuse = (status: number, error: string) => answer(status, { error });

/** The bytes of a text in base64; nothing where it is none. */
function bytesOf(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  } catch {
    return;
  }
}

/** The keys of the secrets. Throws where the configuration is wrong, and never says what a secret is. */
async function keysOf(secret: TagsRouteOptions['secret']): Promise<CryptoKey[]> {
  const secrets = [secret ?? []].flat().flatMap((text) => text.split(/[\s,]+/)).filter(Boolean);
  if (!secrets.length) throw TypeError('secret: there is none. Set it to the secret of the sink in crieur (whsec_…)');
  return Promise.all(
    secrets.map((text) => {
      const bytes = bytesOf(text.replace(/^whsec_/, ''));
      if (!bytes?.length) throw TypeError('secret: it is not whsec_ and base64');
      return crypto.subtle.importKey('raw', bytes, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify']);
    }),
  );
}

/** One after the other. */
function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The body, or nothing where it is too long. */
async function bodyOf(request: Request): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = request.body?.getReader();
  for (let next; reader && !(next = await reader.read()).done; ) {
    length += next.value.length;
    if (length > BODY_BYTES_MAX) {
      await reader.cancel();
      return;
    }
    chunks.push(next.value);
  }
  return joined(chunks);
}

/** Whether one of the signatures in the header is one of ours. `verify` compares in constant time. */
async function isSigned(keys: CryptoKey[], signatures: string, signed: Uint8Array<ArrayBuffer>): Promise<boolean> {
  for (const text of signatures.split(' ')) {
    const [version, base64 = ''] = text.split(',', 2);
    const signature = version === 'v1' && bytesOf(base64);
    for (const key of signature ? keys : [])
      if (await crypto.subtle.verify('HMAC', key, signature as Uint8Array<ArrayBuffer>, signed)) return true;
  }
  return false;
}

/** The tags of a message, or what is wrong with it. Says which tag by its place: a tag may be made of a row. */
function tagsOf(body: Uint8Array): string[] | string {
  let message: any;
  try {
    message = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    return 'the body is not JSON';
  }
  if (message?.type !== 'crieur.tags') return 'type is not "crieur.tags"';
  const tags: unknown = message.data?.tags;
  if (!Array.isArray(tags)) return 'data.tags is not a list';
  const wrong = tags.findIndex((tag) => typeof tag !== 'string' || !tag || tag.length > TAG_LENGTH_MAX);
  return wrong < 0 ? tags : `data.tags[${wrong}] is not a text of 1 to ${TAG_LENGTH_MAX} characters`;
}

/** The messages that were done, each until its timestamp is too old to come again. */
function memory() {
  const done = new Map<string, number>();
  return {
    has: (id: string, now: number) => done.get(id)! >= now,
    add(id: string, until: number, now: number) {
      // The oldest come first.
      for (const [old, end] of done)
        if (end < now || done.size >= REMEMBERED_MAX) done.delete(old);
        else break;
      done.set(id, until);
    },
  };
}

/**
 * Answers a POST of crieur: 2xx when its tags have been expired, 401 when it is not signed, 400 when it is malformed, 413
 * when it is too long, 500 when this route has no secret or `revalidateTag` threw. A message that comes a second time is
 * answered 2xx, and expires nothing: crieur repeats one whose answer it did not get.
 */
export function tagsRoute({ secret, revalidateTag }: TagsRouteOptions): (request: Request) => Promise<Response> {
  let made: Promise<CryptoKey[]> | undefined;
  const done = memory();

  return async (request) => {
    let keys;
    try {
      // At the first message: `next build` loads routes too, and has no secret.
      keys = await (made ??= keysOf(secret));
    } catch (error) {
      console.error(`crieur-cache/next: ${(error as Error).message}`);
      return refuse(500, 'this route has no secret, or none that can be read');
    }
    const id = request.headers.get('webhook-id');
    const timestamp = request.headers.get('webhook-timestamp');
    const signatures = request.headers.get('webhook-signature');
    if (!id || !timestamp || !signatures)
      return refuse(401, 'webhook-id, webhook-timestamp or webhook-signature is missing');
    const body = await bodyOf(request);
    if (!body) return refuse(413, `the body is longer than ${BODY_BYTES_MAX} bytes`);
    const signed = joined([encoder.encode(`${id}.${timestamp}.`), body]);
    if (!(await isSigned(keys, signatures, signed))) return refuse(401, 'the signature does not fit');
    const now = Date.now() / 1000;
    const at = /^\d{1,12}$/.test(timestamp) ? Number(timestamp) : NaN;
    if (!(Math.abs(now - at) <= TOLERANCE_SECONDS))
      return refuse(401, `webhook-timestamp is more than ${TOLERANCE_SECONDS} s from this machine's clock`);

    const tags = tagsOf(body);
    if (typeof tags === 'string') return refuse(400, tags);
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', body));
    const name = `${id} ${String.fromCharCode(...digest)}`;
    if (done.has(name, now)) return answer(200, { tags: tags.length, again: true });
    try {
      // Next runs the promises of a request together, behind the handler.
      for (const tag of tags) await revalidateTag(tag, { expire: 0 });
    } catch (error) {
      console.error('crieur-cache/next: revalidateTag threw', error);
      return refuse(500, 'revalidateTag threw');
    }
    done.add(name, at + TOLERANCE_SECONDS, now);
    return answer(200, { tags: tags.length });
  };
}
