// Asks a gateway's `auto` with the official Node SDK. Standard input: one JSON object, as asking.py writes it;
// standard output: a JSON list of {served, score, answer, seconds}, in the order of the texts.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { url, key, texts, stream, at_once: atOnce } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: url, apiKey: key, timeout: 600_000 });

async function ask(text) {
  const started = performance.now();
  const request = { model: "auto", messages: [{ role: "user", content: text }], stream };
  const chunks = [];
  let answer = "";
  const answered = await client.chat.completions.create(request);
  if (stream) {
    for await (const chunk of answered) {
      chunks.push(chunk);
      answer += chunk.choices[0]?.delta?.content ?? "";
    }
  } else {
    chunks.push(answered);
    answer = answered.choices[0].message.content ?? "";
  }
  const served = new Set(chunks.map((chunk) => chunk.model));
  const facts = chunks[0].pointsman;
  if (served.size !== 1 || !served.has(facts.expert)) throw new Error(`served by ${[...served]}, told ${facts.expert}`);
  return { served: facts.expert, score: facts.score, answer, seconds: (performance.now() - started) / 1000 };
}

const replies = new Array(texts.length);
let next = 0;
async function work() {
  while (next < texts.length) {
    const mine = next++;
    replies[mine] = await ask(texts[mine]);
  }
}
await Promise.all(Array.from({ length: atOnce }, work));
console.log(JSON.stringify(replies));
