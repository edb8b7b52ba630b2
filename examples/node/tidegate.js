// A small client of Tidegate's columnar stream (docs/protocol.md), for one model version.
//
// Steps that are asked for while a message is on its way travel together in the next one. Each session's
// steps are numbered, so what was not answered before a connection broke is sent again, and counts once.
// Inputs are kept until the server has stored their steps: what a crash takes back is applied again.

import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const PROTOS = fileURLToPath(new URL('../../protos', import.meta.url));
const FAILED = 2;
const ATTEMPTS = 8;
const MOST_KEPT = 4096; // steps a session; past it the oldest are forgotten
const FOR_NOW = ['REASON_MOVED', 'REASON_STORE_DOWN', 'REASON_STARTING', 'REASON_DRAINING']; // nothing was done

const definition = loader.loadSync('tidegate/v1/tidegate.proto', {
  includeDirs: [PROTOS], keepCase: true, longs: Number, enums: String, defaults: true,
});
const Detail = definition['tidegate.v1.ErrorDetail'];
const { Tidegate } = grpc.loadPackageDefinition(definition).tidegate.v1;

/** A stub for every call of the service. */
export const connect = (address) => new Tidegate(address, grpc.credentials.createInsecure());

/** The end of it. (Its own `close` is the call that ends a session.) */
export const disconnect = (stub) => grpc.Client.prototype.close.call(stub);

/** The models served, once the server is there and has loaded them. */
export async function models(stub) {
  for (let failures = 1; ; failures += 1) {
    try {
      return (await promisify(stub.ListModels.bind(stub))({})).models;
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE || failures >= ATTEMPTS) throw error;
      if (detail(error).reason === 'REASON_STARTING') failures = 0; // a server that starts is waited for
      await pause(backoff(failures));
    }
  }
}

/** Sessions of one model over one stream. */
export class StepStream {
  #stub; #model; #features; #call = null; #closed = false; #failures = 0; #id = 0;
  #sessions = []; // by lane
  #ready = []; // steps that may go, at most one a session
  #inFlight = null;
  #scheduled = false;

  /** `model` as ListModels describes it. */
  constructor(stub, model) {
    this.#stub = stub;
    this.#model = model;
    this.#features = model.features.length;
  }

  /** A session, opened with its first step if it is not live. */
  session(id) {
    const session = { id, lane: this.#sessions.length, number: null, named: false, queue: [], life: null, kept: [] };
    this.#sessions.push(session);
    return { id, step: (features) => this.#step(session, features) };
  }

  /** Say good-bye. Sessions stay live. */
  close() {
    this.#closed = true;
    this.#call?.end();
  }

  /** Resolves to the step's outputs, a Float32Array. Steps of a session go in the order of the calls. */
  #step(session, features) {
    if (features.length !== this.#features) {
      return Promise.reject(new RangeError(`a step has ${this.#features} features, not ${features.length}`));
    }
    return new Promise((resolve, reject) => {
      session.queue.push({ session, features: Float32Array.from(features), resolve, reject, refusals: 0 });
      if (session.queue.length === 1) this.#offer(session.queue[0]);
    });
  }

  #offer(step) {
    this.#ready.push(step);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => { // after everybody who is about to ask has asked
      this.#scheduled = false;
      this.#send();
    });
  }

  #send() {
    if (this.#inFlight || this.#ready.length === 0 || this.#closed) return;
    this.#call ??= this.#open();
    const steps = this.#ready.splice(0);
    // A session's count is told when its lane is named; until then its step cannot be numbered.
    const rows = steps.filter(({ session }) => session.number !== null);
    const waiting = steps.filter(({ session }) => session.number === null);
    const unnamed = steps.map(({ session }) => session).filter(({ named }) => !named);
    for (const session of unnamed) session.named = true;
    this.#inFlight = { rows, waiting, unnamed };
    this.#call.write(this.#encode(rows, unnamed));
  }

  /** The columns: little-endian, a row after the other. */
  #encode(rows, unnamed) {
    const lanes = Buffer.alloc(4 * rows.length);
    const numbers = Buffer.alloc(8 * rows.length);
    const features = Buffer.alloc(4 * this.#features * rows.length);
    rows.forEach(({ session, number, features: values }, row) => {
      lanes.writeUInt32LE(session.lane, 4 * row);
      numbers.writeBigUInt64LE(BigInt(number ?? session.number), 8 * row);
      values.forEach((value, k) => features.writeFloatLE(value, 4 * (row * values.length + k)));
    });
    return {
      id: this.#id++, model: this.#model.name, version: this.#model.version,
      opens: unnamed.map(({ lane, id, number }) => ({ lane, session_id: id, create: number === null })),
      lanes, first_steps: numbers, features,
    };
  }

  #open() {
    const call = this.#stub.StepStream();
    for (const session of this.#sessions) session.named = false;
    call.on('data', (reply) => this.#settle(reply));
    call.on('error', (error) => { if (call === this.#call) this.#broken(error); });
    return call;
  }

  #settle(reply) {
    const { rows, waiting, unnamed } = this.#inFlight;
    this.#inFlight = null;
    this.#failures = 0;
    const refused = new Map(reply.errors.flatMap((entry) => alike(entry).map((row) => [row, entry.error])));
    const failed = new Map();
    reply.opened.forEach(({ error, steps, life }, k) => {
      const session = unnamed[k];
      if (error) {
        session.named = false;
        failed.set(session, error);
      } else {
        session.number ??= steps;
        session.life ??= life;
        session.told = life;
      }
    });
    let at = 0;
    rows.forEach((step, row) => {
      const { session } = step;
      if (reply.status[row] === FAILED) {
        this.#refused(step, failed.get(session) ?? refused.get(row));
        return;
      }
      const outputs = new Float32Array(this.#width());
      for (let k = 0; k < outputs.length; k++, at += 4) outputs[k] = reply.outputs.readFloatLE(at);
      if (step.before) { // it was answered long ago; the next one that was lost, or the step itself, may go
        this.#goBack(step.before, step.number + 1);
        return;
      }
      if (reply.durable_steps.length) keep(step, Number(reply.durable_steps.readBigUInt64LE(8 * row)));
      session.number += 1;
      this.#finish(step, () => step.resolve(outputs));
    });
    for (const step of waiting) {
      if (failed.has(step.session)) this.#refused(step, failed.get(step.session));
      else this.#offer(step);
    }
    this.#send();
  }

  #width() {
    return this.#model.outputs.reduce((sum, { size }) => sum + size, 0);
  }

  /** The step leaves its session's queue, and the next one may go. */
  #finish({ session }, tell) {
    session.queue.shift();
    if (session.queue.length > 0) this.#offer(session.queue[0]);
    tell();
  }

  /** The server did not apply the row: it goes again later, or after what a crash took back, or its caller is told. */
  #refused(row, error) {
    const step = row.before ?? row;
    const { session } = step;
    if (FOR_NOW.includes(error.reason) && ++step.refusals < ATTEMPTS) {
      if (error.reason === 'REASON_MOVED') this.#call?.cancel(); // another server may answer a new stream
      setTimeout(() => this.#offer(row), Number(error.retry_after_ms) || backoff(step.refusals));
    } else if (row.before && error.reason === 'REASON_STEP_TOO_OLD') {
      this.#goBack(step, Number(error.expected_step)); // it was applied, and its reply lost
    } else if (error.reason === 'REASON_STEP_GAP' && session.told === session.life) {
      this.#goBack(step, Number(error.expected_step), error);
    } else {
      this.#finish(step, () => step.reject(failure(error)));
    }
  }

  /** The server is at step `from`: apply again what is kept from there on, before `step` goes. */
  #goBack(step, from, error) {
    const { session } = step;
    if (from >= session.number) {
      this.#offer(step);
      return;
    }
    const features = session.kept[from - (session.number - session.kept.length)];
    if (features) this.#offer({ session, features, number: from, before: step });
    else this.#finish(step, () => step.reject(failure(error ?? { message: `step ${from} is lost` })));
  }

  /** The connection is lost: what was not answered goes again, under the same numbers. */
  async #broken(error) {
    const lost = this.#inFlight;
    this.#inFlight = this.#call = null;
    const again = lost ? [...lost.rows, ...lost.waiting] : [];
    const { reason, retry_after_ms: asked } = detail(error);
    this.#failures += reason === 'REASON_STARTING' ? 0 : 1; // a server that starts is waited for
    const passes = [grpc.status.UNAVAILABLE, grpc.status.CANCELLED].includes(error.code); // we cancel where it moved
    if (!passes || this.#failures >= ATTEMPTS || this.#closed) {
      for (const { session } of [...again, ...this.#ready.splice(0)]) {
        for (const step of session.queue.splice(0)) step.reject(error);
      }
      return;
    }
    await pause(Number(asked) || backoff(this.#failures));
    this.#ready.unshift(...again);
    this.#send();
  }
}

/** Keep an applied step's input, and drop those that are stored. */
function keep({ session, features }, durable) {
  session.kept.push(features);
  const unstored = Math.max(0, session.number + 1 - durable);
  session.kept.splice(0, session.kept.length - Math.min(unstored, MOST_KEPT));
}

const backoff = (failures) => Math.min(2000, 50 * 2 ** failures) * (0.8 + 0.4 * Math.random());

/** What a Tidegate server told of why a call ended. */
function detail(error) {
  const [packed] = error.metadata?.get('tidegate-error-bin') ?? [];
  return packed ? Detail.deserialize(packed) : {};
}

/** The rows that one entry of `errors` is about: the first, and those that failed in the same way. */
function alike({ row, also }) {
  return [row, ...Array.from({ length: also.length / 4 }, (_, k) => also.readUInt32LE(4 * k))];
}

const failure = ({ reason, message }) => Object.assign(new Error(message), { reason });
