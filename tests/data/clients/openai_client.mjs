// What people do with OpenAI's JavaScript package, against the URL in the first argument.
import assert from "node:assert";
import OpenAI from "openai";

const [url, embeddings] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unneeded", maxRetries: 0 });
const messages = [{ role: "user", content: "How is the weather in Lima?" }];
const common = { model: "model", messages, max_tokens: 200, temperature: 0 };
const parameters = { type: "object", properties: { city: { enum: ["Paris", "Lima"] } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "get_weather", strict: true, parameters } }];
const schema = { type: "object", properties: { name: { enum: ["red", "blue"] } }, required: ["name"], additionalProperties: false };

const whole = await client.chat.completions.create(common);
assert(whole.choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ ...common, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert(text);
const final = await client.chat.completions.stream({ ...common }).finalChatCompletion();
assert(final.choices[0].message.content);

const called = await client.chat.completions.create({ ...common, tools, tool_choice: "required" });
const call = called.choices[0].message.tool_calls[0];
assert(["Paris", "Lima"].includes(JSON.parse(call.function.arguments).city));
const after = [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "mild" }];
assert((await client.chat.completions.create({ ...common, messages: after, tools })).choices[0].finish_reason);
const streamed = await client.chat.completions.stream({ ...common, tools, tool_choice: "required" }).finalChatCompletion();
assert.equal(streamed.choices[0].message.tool_calls[0].function.name, "get_weather");
let ran = 0;
const runner = client.chat.completions.runTools({
  ...common,
  tool_choice: { type: "function", function: { name: "get_weather" } },
  tools: [{ type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: () => (ran += 1, "mild") } }],
});
await runner.finalChatCompletion();
assert.equal(ran, 1);

const response_format = { type: "json_schema", json_schema: { name: "colour", strict: true, schema } };
const held = await client.chat.completions.parse({ ...common, response_format });
assert(["red", "blue"].includes(JSON.parse(held.choices[0].message.content).name));

const answer = await client.responses.create({ model: "model", input: "Say hello.", max_output_tokens: 100 });
assert(answer.output_text);
const events = client.responses.stream({ model: "model", input: "Say hello.", max_output_tokens: 100 });
const kinds = new Set();
for await (const event of events) kinds.add(event.type);
assert(kinds.has("response.output_text.delta") && kinds.has("response.completed"), [...kinds].join());
const flat = [{ type: "function", name: "get_weather", strict: true, parameters }];
const used = await client.responses.create({ model: "model", input: "Weather in Lima?", tools: flat, tool_choice: "required", max_output_tokens: 200 });
assert.equal(used.output.find((item) => item.type === "function_call").name, "get_weather");
const json = await client.responses.create({
  model: "model", input: "A colour?", max_output_tokens: 100, text: { format: { type: "json_schema", name: "colour", schema, strict: true } },
});
assert(["red", "blue"].includes(JSON.parse(json.output_text).name));

assert((await client.completions.create({ model: "model", prompt: "Once upon", max_tokens: 8 })).choices[0].finish_reason);
assert((await client.models.list()).data.some((model) => model.id === "model"));
const other = new OpenAI({ baseURL: `${embeddings}/v1`, apiKey: "unneeded", maxRetries: 0 });
const vectors = await other.embeddings.create({ model: "embedder", input: ["one", "two"] });
assert.equal(vectors.data.length, 2);
assert(vectors.data[0].embedding.every(Number.isFinite));
await assert.rejects(client.chat.completions.create({ ...common, temperature: -1 }), (error) => error.status === 400 && error.param === "temperature");
console.log("done");
