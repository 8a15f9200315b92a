// The `openai` package of npm: chat, stream, tools, structured output, responses and embeddings.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "default";
const hello = "Hello, 地峡!";
const user = (content) => ({ role: "user", content });
const Person = z.object({ name: z.string(), age: z.number() });
const parameters = {
  type: "object",
  properties: { a: { type: "integer" }, b: { type: "integer" } },
  required: ["a", "b"],
};

const plain = await client.chat.completions.create({ model, messages: [user(hello)] });

const streaming = client.chat.completions.stream({
  model,
  messages: [user(hello)],
  stream_options: { include_usage: true },
});
let pieces = 0;
let streamed = "";
for await (const chunk of streaming) {
  const piece = chunk.choices[0]?.delta?.content;
  if (piece) {
    pieces += 1;
    streamed += piece;
  }
}

const add = {
  name: "add",
  parameters,
  parse: JSON.parse,
  function: ({ a, b }) => `the sum is ${a + b}`,
};
const tools = await client.chat.completions
  .runTools({ model, messages: [user("two and three")], tools: [{ type: "function", function: add }] })
  .finalContent();
const streamedTools = await client.chat.completions
  .runTools({ model, stream: true, messages: [user("two and three")], tools: [{ type: "function", function: add }] })
  .finalContent();

const parsed = await client.chat.completions.parse({
  model,
  messages: [user("Ada")],
  response_format: zodResponseFormat(Person, "person"),
});

const response = await client.responses.create({ model, input: hello });
const events = client.responses.stream({ model, input: hello });
let numbers = [];
for await (const event of events) numbers.push(event.sequence_number);
const typed = await client.responses.parse({
  model,
  input: "Ada",
  text: { format: zodTextFormat(Person, "person") },
});

const embedded = await client.embeddings.create({ model, input: ["one", "two"] });
let refusal;
try {
  await client.models.retrieve("absent");
} catch (error) {
  refusal = [error.constructor.name, error.status, error.code];
}

console.log(
  JSON.stringify({
    chat: plain.choices[0].message.content,
    stream: streamed,
    pieces,
    usage: (await streaming.totalUsage()).total_tokens,
    tools,
    streamed_tools: streamedTools,
    structured: parsed.choices[0].message.parsed,
    response: response.output_text,
    numbers,
    final: (await events.finalResponse()).output_text,
    typed: typed.output_parsed,
    embeddings: embedded.data.map((each) => each.embedding.length),
    refusal,
  }),
);
