// The official Node SDK against the gateway; prints one JSON object of what it saw. Run by test_node.py.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0, timeout: 200_000 });
const question = [{ role: "user", content: process.argv[3] }];
const seen = {};

const { data: plain, response } = await client.chat.completions
  .create({ model: "auto", messages: question, max_tokens: 4 })
  .withResponse();
seen.plain = {
  model: plain.model,
  facts: plain.pointsman,
  header: response.headers.get("x-pointsman-expert"),
  requestId: plain._request_id,
  content: plain.choices[0].message.content,
  usage: plain.usage,
};

seen.models = new Set();
seen.text = "";
for await (const chunk of await client.chat.completions.create({
  model: "auto",
  messages: question,
  max_tokens: 4,
  stream: true,
  stream_options: { include_usage: true },
})) {
  seen.models.add(chunk.model);
  seen.text += chunk.choices[0]?.delta?.content ?? "";
  seen.usage = chunk.usage ?? seen.usage;
  seen.facts ??= chunk.pointsman;
}
seen.models = [...seen.models];

const helper = client.chat.completions.stream({ model: "base", messages: question, max_tokens: 4 });
seen.helper = (await helper.finalChatCompletion()).choices[0].finish_reason;

const answered = await client.responses.create({ model: "base", input: "Say hello.", max_output_tokens: 4 });
seen.responses = { model: answered.model, text: answered.output_text };

const embedded = await client.embeddings.create({ model: "any", input: ["a", "b"] });
seen.embeddings = embedded.data.map((row) => row.embedding.length);

seen.listed = [];
for await (const model of client.models.list()) seen.listed.push(model.id);

async function failure(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, requestID: error.requestID };
  }
}
seen.unknown = await failure(() => client.chat.completions.create({ model: "nobody", messages: question }));
const long = [{ role: "user", content: "word ".repeat(5000) }];
seen.long = await failure(() => client.chat.completions.create({ model: "base", messages: long, stream: true }));

const stream = await client.chat.completions.create({
  model: "base",
  messages: question,
  max_tokens: 1500,
  stream: true,
  ignore_eos: true,
});
for await (const _ of stream) break; // leaves: the test looks whether the gateway noticed

console.log(JSON.stringify(seen));
