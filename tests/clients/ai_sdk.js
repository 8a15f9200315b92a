// The AI SDK over one of its providers: chat, stream, tools, structured output and embeddings.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, apiKey, face] = process.argv.slice(2);
const hello = "Hello, 地峡!";
const own = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  name: "isthmus",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = { responses: own, chat: own.chat, compatible }[face]("default");
const embedding = (face === "compatible" ? compatible : own).textEmbeddingModel("default");
const given = { model, maxRetries: 0 };
const stop = stepCountIs(3);
const tools = {
  add: tool({
    description: "Add two numbers.",
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    execute: async ({ a, b }) => `the sum is ${a + b}`,
  }),
};

const plain = await generateText({ ...given, prompt: hello });

const streaming = streamText({ ...given, prompt: hello, onError: ({ error }) => { throw error; } });
const parts = [];
for await (const part of streaming.textStream) parts.push(part);

const counted = await generateText({ ...given, tools, stopWhen: stop, prompt: "two and three" });
const streamedTools = streamText({ ...given, tools, stopWhen: stop, prompt: "two and three" });
const person = await generateText({
  ...given,
  prompt: "Ada",
  output: Output.object({ schema: z.object({ name: z.string(), age: z.number() }) }),
});
const { embeddings } = await embedMany({ model: embedding, values: ["one", "two"], maxRetries: 0 });

console.log(
  JSON.stringify({
    chat: plain.text,
    finish: plain.finishReason,
    tokens: plain.usage.totalTokens > 0,
    stream: parts.join(""),
    pieces: parts.length,
    tools: counted.text,
    steps: counted.steps.length,
    streamed_tools: await streamedTools.text,
    structured: person.output,
    embeddings: embeddings.map((each) => each.length),
  }),
);
