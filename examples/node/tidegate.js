// A small client of Tidegate's columnar stream (docs/protocol.md), for one model version.
//
// Steps that are asked for while a message is on its way travel together in the next one. Each session's
// steps are numbered, so what was not answered before a connection broke is sent again, and counts once. The
// inputs of steps that the server has not stored yet are kept: should it come back at an earlier step, they go again.

import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const PROTOS = fileURLToPath(new URL('../../protos', import.meta.url));
const FAILED = 2;
const ATTEMPTS = 8;
const MOST_KEPT = 4096; // inputs a session; past it the oldest are forgotten, and may be lost with the server
const FOR_NOW = ['REASON_STORE_DOWN', 'REASON_QUEUE_FULL', 'REASON_SESSIONS_FULL', 'REASON_DRAINING'];

const definition = loader.loadSync('tidegate/v1/tidegate.proto', {
  includeDirs: [PROTOS], keepCase: true, longs: Number, enums: String, defaults: true,
});
const { Tidegate } = grpc.loadPackageDefinition(definition).tidegate.v1;

/** A stub for every call of the service. */
export const connect = (address) => new Tidegate(address, grpc.credentials.createInsecure());

/** The end of it. (Its own `close` is the call that ends a session.) */
export const disconnect = (stub) => grpc.Client.prototype.close.call(stub);

/** The models served, once the server has loaded them. */
export async function models(stub) {
  for (let failures = 1; ; failures += 1) {
    try {
      return (await promisify(stub.ListModels.bind(stub))({})).models;
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE || (failures >= ATTEMPTS && !starting(error))) throw error;
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
    const session = {
      id, lane: this.#sessions.length, named: false, queue: [],
      number: null, life: null, // of the next step; which life of the session this is
      kept: [], // inputs of the latest steps, those that may not be stored yet
    };
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
      session.queue.push({ session, features: Float32Array.from(features), resolve, reject });
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
    rows.forEach(({ session, features: values }, row) => {
      lanes.writeUInt32LE(session.lane, 4 * row);
      numbers.writeBigUInt64LE(BigInt(session.number), 8 * row);
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
    reply.opened.forEach((opened, k) => this.#named(unnamed[k], opened));
    let at = 0;
    let moved = false;
    rows.forEach((step, row) => {
      if (reply.status[row] === FAILED) {
        moved ||= this.#refused(step, refused.get(row));
        return;
      }
      const outputs = new Float32Array(this.#width());
      for (let k = 0; k < outputs.length; k++, at += 4) outputs[k] = reply.outputs.readFloatLE(at);
      keep(step, reply.durable_steps.length ? Number(reply.durable_steps.readBigUInt64LE(8 * row)) : Infinity);
      this.#finish(step, () => step.resolve(outputs));
    });
    for (const step of waiting.filter((each) => each.session.queue[0] === each)) {
      if (step.session.named) this.#offer(step);
      else pause(100).then(() => this.#offer(step)); // refused for now
    }
    if (moved) this.#reopen();
    this.#send();
  }

  /** The server has told where a session stands, or why there is none. */
  #named(session, { error, steps, life }) {
    session.number ??= steps;
    session.life ??= life;
    if (error && (FOR_NOW.includes(error.reason) || error.reason === 'REASON_MOVED')) session.named = false;
    else if (error) this.#refuseAll(session, error);
    else if (session.life !== life) this.#refuseAll(session, { message: `session ${session.id} began anew` });
  }

  /** A row was not applied; returns whether another server has its session. */
  #refused(step, error) {
    const { session } = step;
    if (session.queue[0] !== step) return false; // refused with its session
    if (error.reason === 'REASON_MOVED' || !session.named) {
      this.#offer(step);
      return error.reason === 'REASON_MOVED';
    }
    if (FOR_NOW.includes(error.reason)) {
      pause(error.retry_after_ms ?? 100).then(() => this.#offer(step));
      return false;
    }
    const lost = session.number - error.expected_step; // steps that went with the server
    if (error.reason === 'REASON_STEP_GAP' && lost > 0 && lost <= session.kept.length) {
      const again = session.kept.splice(-lost).map((features) => (
        { session, features, resolve() {}, reject: (failed) => step.reject(failed) }));
      session.number = error.expected_step;
      session.queue.unshift(...again);
      this.#offer(again[0]);
    } else {
      this.#finish(step, () => step.reject(failure(error)));
    }
    return false;
  }

  /** A new stream, which a proxy may lead to another server. */
  #reopen() {
    const call = this.#call;
    this.#call = null;
    for (const session of this.#sessions) session.named = false;
    call.end();
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

  #refuseAll(session, error) {
    session.named = false;
    for (const step of session.queue.splice(0)) step.reject(failure(error));
  }

  /** The connection is lost: what was not answered goes again, under the same numbers. */
  async #broken(error) {
    const lost = this.#inFlight;
    this.#inFlight = this.#call = null;
    const again = lost ? [...lost.rows, ...lost.waiting] : [];
    this.#failures = starting(error) ? 0 : this.#failures + 1;
    if (error.code !== grpc.status.UNAVAILABLE || this.#failures >= ATTEMPTS || this.#closed) {
      for (const { session } of [...again, ...this.#ready.splice(0)]) {
        for (const step of session.queue.splice(0)) step.reject(error);
      }
      return;
    }
    await pause(backoff(this.#failures));
    this.#ready.unshift(...again);
    this.#send();
  }
}

/** The step was applied; its input is kept until the server has stored it. */
function keep({ session, features }, durable) {
  session.number += 1;
  session.kept.push(features);
  const unstored = Math.max(0, session.number - durable);
  if (session.kept.length > Math.min(unstored, MOST_KEPT)) {
    session.kept.splice(0, session.kept.length - Math.min(unstored, MOST_KEPT));
  }
}

const starting = (error) => error.code === grpc.status.UNAVAILABLE && /still loading/.test(error.details);

/** Milliseconds to wait after so many failures in a row. */
const backoff = (failures) => Math.min(2000, 50 * 2 ** failures) * (0.8 + 0.4 * Math.random());

/** The rows that one entry of `errors` is about: the first, and those that failed in the same way. */
function alike({ row, also }) {
  return [row, ...Array.from({ length: also.length / 4 }, (_, k) => also.readUInt32LE(4 * k))];
}

const failure = ({ reason, message }) => Object.assign(new Error(message), { reason });
