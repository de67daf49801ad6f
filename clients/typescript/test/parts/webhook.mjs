// Messages as crieur posts them, signed by npm `standardwebhooks`; and a way for those of crieur itself.

import { createServer } from 'node:http';
import { Webhook } from 'standardwebhooks';

export const SECRET = `whsec_${Buffer.from('a secret of the tests, 32 bytes.').toString('base64')}`;

let count = 0;

/** Posts tags to the route of an application. Answers the status. */
export async function post(app, tags, { secret = SECRET } = {}) {
  const body = JSON.stringify({ type: 'crieur.tags', timestamp: new Date().toISOString(), data: { tags } });
  const [id, at] = [`msg_${++count}`, new Date()];
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': `${Math.floor(at / 1000)}`,
    'webhook-signature': new Webhook(secret).sign(id, at, body),
  };
  const answer = await fetch(`${app.url}/api/crieur`, { method: 'POST', body, headers, signal: AbortSignal.timeout(30_000) });
  return answer.status;
}

/** Passes on what crieur posts, to an application that may not be there yet, and counts what was done. */
export async function relay() {
  const server = createServer(async (request, answer) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    try {
      const { host, connection, ...headers } = request.headers;
      const said = await fetch(here.to + request.url, { method: request.method, headers, body });
      if (said.ok && JSON.parse(body).data.tags.length) here.done++;
      here.statuses.push(said.status);
      answer.writeHead(said.status).end(await said.text());
    } catch {
      answer.writeHead(503).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const here = {
    to: undefined,
    /** Messages with tags that were answered 2xx. */
    done: 0,
    statuses: [],
    url: `http://127.0.0.1:${server.address().port}/api/crieur`,
    close: () => server.closeAllConnections(server.close()),
  };
  return here;
}
