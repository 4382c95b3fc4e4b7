// Sends actions with kafkajs 2: its default partitioner is Kafka's murmur2 of the key. Item ids are strings: a number of JavaScript has 53 bits.
const readline = require('node:readline');
const { Kafka, Partitioners } = require('kafkajs');
const protobuf = require('protobufjs');

async function main() {
  const [servers, topic] = process.argv.slice(2);
  const Action = (await protobuf.load('monolith/v1/example.proto')).lookupType('monolith.v1.Action');
  const producer = new Kafka({ brokers: servers.split(',') }).producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const messages = [];
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const one = JSON.parse(line);
    const action = Action.fromObject({
      requestId: one.request_id, itemId: one.item_id, kind: one.kind, timeMs: one.time_ms, value: one.value,
    });
    const value = Buffer.from(Action.encode(action).finish());
    messages.push({ key: one.request_id, value, timestamp: String(one.time_ms) });
  }
  await producer.send({ topic, acks: -1, messages });
  await producer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
