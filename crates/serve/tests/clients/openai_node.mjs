// The official JavaScript client against a running server: node openai_node.mjs BASE_URL [MODEL]
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, model = "bard"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Who goes there?" }];
const ask = (more) =>
  client.chat.completions.create({ model, messages, max_tokens: 16, temperature: 0, ...more });

const whole = await ask({});
assert.ok(whole.choices[0].message.content.length > 0);

let text = "";
for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, whole.choices[0].message.content);

const four = await ask({ n: 4, temperature: 1, seed: 1 });
assert.deepEqual(four.choices.map((c) => c.index), [0, 1, 2, 3]);

const schema = {
  type: "object",
  properties: { yes: { type: "boolean" } },
  required: ["yes"],
  additionalProperties: false,
};
const json = await ask({
  max_tokens: 60,
  response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } },
});
assert.equal(typeof JSON.parse(json.choices[0].message.content).yes, "boolean");

const tool = { type: "function", function: { name: "answer", parameters: schema } };
const called = await ask({ max_tokens: 100, tools: [tool], tool_choice: "required" });
assert.equal(called.choices[0].message.tool_calls[0].function.name, "answer");

const completion = await client.completions.create({ model, prompt: "ROMEO:", max_tokens: 4, logprobs: 2 });
assert.equal(completion.choices[0].logprobs.tokens.length, 4);

await assert.rejects(ask({ temperature: -1 }), (e) => e instanceof OpenAI.BadRequestError);
await assert.rejects(ask({ model: "none" }), (e) => e instanceof OpenAI.NotFoundError);
const stream = client.chat.completions.stream({ model, messages, max_tokens: 16, temperature: 0 });
assert.equal(await stream.finalContent(), whole.choices[0].message.content);
console.log("passed");
