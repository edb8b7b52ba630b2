// Streams the sessions of a CSV file side by side and prints a JSON line for each: its outputs, step by step.
//
//   node main.js ADDRESS MODEL FILE.csv [SESSIONS]
//
// The file's columns are `session`, `label` (optional) and the model's features by name.

import { readFileSync } from 'node:fs';
import { StepStream, connect, disconnect, models } from './tidegate.js';

const [address, name, file, most] = process.argv.slice(2);
if (!file) {
  console.error('usage: node main.js ADDRESS MODEL FILE.csv [SESSIONS]');
  process.exit(2);
}

function readSessions(model) {
  const [header, ...lines] = readFileSync(file, 'utf8').trim().split(/\r?\n/).map((line) => line.split(','));
  const columns = model.features.map((feature) => header.indexOf(feature.name));
  const sessions = Map.groupBy(lines, (cells) => cells[header.indexOf('session')]);
  return [...sessions].slice(0, most && Number(most)).map(([id, rows]) => ({
    id,
    label: rows[0][header.indexOf('label')],
    steps: rows.map((cells) => columns.map((at) => Number(cells[at]))),
  }));
}

async function play(stream, { id, label, steps }, labels) {
  const session = stream.session(`node-${process.pid}-${id}`);
  const outputs = [];
  for (const features of steps) outputs.push(await session.step(features));
  const last = outputs.at(-1);
  const told = labels[last.indexOf(Math.max(...last))];
  console.log(JSON.stringify({ session: id, outputs: outputs.map((each) => [...each]) }));
  return told === undefined ? null : told === label;
}

const stub = connect(address);
const served = await models(stub);
const model = served.findLast((each) => each.name === name);
if (!model) {
  console.error(`no model ${name}; served: ${served.map((each) => each.name).join(', ')}`);
  process.exit(1);
}
const stream = new StepStream(stub, model);
const right = await Promise.all(readSessions(model).map((each) => play(stream, each, model.outputs[0].labels)));
const judged = right.filter((each) => each !== null);
if (judged.length) console.error(`${judged.filter(Boolean).length} of ${judged.length} right at the session's end`);
stream.close();
disconnect(stub);
