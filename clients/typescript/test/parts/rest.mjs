// The stand-in of Upstash (tests/standin) in front of a server of the tests.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { repository } from './servers.mjs';

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill()));

export async function startRest(port, token = 'secret-token', restPort = 0) {
  const script = join(repository, 'tests/standin/upstash.mjs');
  const child = spawn(process.execPath, [script, '--backend', `127.0.0.1:${port}`, '--token', token, '--rest-port', `${restPort}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  running.add(child);
  const [line] = await once(child.stdout, 'data');
  const ports = JSON.parse(line.toString());
  const control = async (name, body = {}) => {
    const answer = await fetch(`http://127.0.0.1:${ports.control}/${name}`, { method: 'POST', body: JSON.stringify(body) });
    return answer.json();
  };
  const get = async (name) => (await fetch(`http://127.0.0.1:${ports.control}/${name}`)).json();
  return {
    url: `http://127.0.0.1:${ports.rest}`,
    token,
    control,
    get,
    async stop() {
      running.delete(child);
      child.kill();
      await once(child, 'exit');
    },
  };
}
