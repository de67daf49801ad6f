// What a daemon with `publish` says it deleted, and how new that knowledge is. `docs/memory.md` has the format and the proof.

import { nothing } from './small.js';
import type { FlushReason, Store } from './types.js';

/** What is used of a client that does nothing but listen, so that any version's type fits. */
export interface Subscriber {
  readonly status: string;
  subscribe(channel: string): Promise<unknown>;
  ping(): Promise<unknown>;
  on(event: string, listener: (...args: any[]) => void): unknown;
  connect(): Promise<unknown>;
  disconnect(): void;
}

/** One daemon, as far as it was heard on this connection. */
interface Speaker {
  epoch: string;
  /** The number of the latest message. */
  n: number;
  /** Whatever was deleted before this moment has been heard. */
  fresh: number;
  /** It forbids to keep anything, until it takes that back. */
  isOff: boolean;
  /** The mark as it was when it was looked at, since when it has been so, and whether it names what was heard. */
  mark: { nonce: string; since: number; isGood: boolean };
}

interface Message {
  slot: string;
  epoch: string;
  n: number;
  keys: string[];
  flush: boolean;
}

/** Nothing: the text is no message of this version. */
export function messageOf(text: string): Message | undefined {
  try {
    const { v, slot, epoch, n, keys, flush = false } = JSON.parse(text);
    const isRight =
      v === 1 && typeof slot === 'string' && typeof epoch === 'string' && Number.isSafeInteger(n) &&
      Array.isArray(keys) && keys.every((key) => typeof key === 'string') && typeof flush === 'boolean';
    return isRight ? { slot, epoch, n, keys, flush } : undefined;
  } catch {
    return;
  }
}

/** What the feed is made of. */
export interface FeedOptions {
  subscriber: Subscriber;
  store: Store;
  channel: string;
  slots: string[];
  boundMs: number;
  /** A key was deleted. */
  forget(key: string): void;
  /** Anything may have been deleted. */
  flush(why: FlushReason): void;
}

/** The ear of one process. */
export class Feed {
  readonly #options: FeedOptions;
  readonly #speakers = new Map<string, Speaker>();
  /** Another one for each connection: what belongs to an older one counts no more. */
  #connection = 0;
  #isListening = false;
  /** When the latest PING was sent that was answered on this connection. */
  #pinged = -Infinity;
  #isClosed = false;
  #timer: any;

  constructor(options: FeedOptions) {
    this.#options = options;
    const { subscriber } = options;
    subscriber.on('error', nothing);
    subscriber.on('close', () => this.#lose());
    subscriber.on('ready', () => this.#listen());
    subscriber.on('message', (channel: string, text: string) => {
      if (channel === options.channel) this.#hear(text);
    });
    if (subscriber.status === 'ready') this.#listen();
    if (subscriber.status === 'wait') subscriber.connect().catch(nothing);
    this.#next();
  }

  /** Whether what is kept may be served now. Silence makes everything forgotten. */
  isLive(): boolean {
    const now = performance.now();
    const { slots, boundMs } = this.#options;
    if (!this.#isListening) return false;
    const speakers = slots.map((slot) => this.#speakers.get(slot));
    if (speakers.some((speaker) => !speaker || speaker.isOff || !speaker.mark.isGood)) return false;
    if (speakers.every((speaker) => now - speaker!.fresh <= boundMs)) return true;
    // Messages of these may come on; until they do, nothing is known of what they have deleted.
    const wereHeard = speakers.filter((speaker) => speaker!.fresh > -Infinity);
    for (const speaker of wereHeard) speaker!.fresh = -Infinity;
    if (wereHeard.length) this.#options.flush('silence');
    return false;
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#options.subscriber.disconnect();
  }

  #lose() {
    this.#connection++;
    this.#isListening = false;
    this.#pinged = -Infinity;
    this.#speakers.clear();
    this.#options.flush('connection');
  }

  #listen() {
    const connection = this.#connection;
    const heard = () => {
      if (connection === this.#connection) this.#isListening = true;
    };
    // Without an answer the client connects anew, and this is called again.
    this.#options.subscriber.subscribe(this.#options.channel).then(heard, nothing);
  }

  #hear(text: string) {
    const { forget, flush, slots } = this.#options;
    const message = messageOf(text);
    if (!message) {
      for (const speaker of this.#speakers.values()) speaker.fresh = -Infinity;
      return flush('unreadable');
    }
    const { slot, epoch, n } = message;
    const known = this.#speakers.get(slot);
    if (!slots.includes(slot)) {
      // A daemon that this process does not count on. What it deletes is gone nevertheless.
    } else if (!known || known.epoch !== epoch) {
      flush('epoch');
    } else if (n !== known.n + 1) {
      flush('number');
    }
    if (message.flush) flush('flush');
    for (const key of message.keys) forget(key);
    const mark = known?.mark ?? { nonce: '', since: 0, isGood: false };
    this.#speakers.set(slot, { epoch, n, fresh: this.#pinged, isOff: message.flush, mark });
  }

  #next() {
    this.#timer = setTimeout(() => this.#look().catch(nothing).finally(() => this.#isClosed || this.#next()), this.#options.boundMs / 4);
    this.#timer.unref?.();
  }

  /** Reads the marks, and then makes sure that everything which was published before has come. */
  async #look() {
    if (!this.#isListening) return;
    const { store, slots, subscriber } = this.#options;
    const connection = this.#connection;
    const asked = performance.now();
    const marks = await Promise.all(slots.map((slot) => store.send('GET', `crieur:mark:${slot}`).catch(() => undefined)));
    const sent = performance.now();
    await subscriber.ping();
    if (connection !== this.#connection) return;
    this.#pinged = sent;
    slots.forEach((slot, i) => this.#compare(slot, marks[i], asked));
  }

  /** The mark of a daemon names a message that came before it: behind the PING, this process must have heard that one. */
  #compare(slot: string, text: unknown, asked: number) {
    const speaker = this.#speakers.get(slot);
    // Without an answer there is nothing new, and without a message there is nothing to compare.
    if (text === undefined || !speaker) return;
    let nonce = '';
    let isGood = false;
    try {
      const mark = JSON.parse(text as string);
      nonce = String(mark.nonce);
      const { epoch, n } = mark.published;
      isGood = epoch === speaker.epoch && n <= speaker.n;
    } catch {
      // No mark, or one of a daemon that does not publish.
    }
    const since = nonce === speaker.mark.nonce ? speaker.mark.since : asked;
    if (asked - since > this.#options.boundMs) isGood = false;
    if (!isGood && speaker.mark.isGood) this.#options.flush('mark');
    speaker.mark = { nonce, since, isGood };
  }
}
