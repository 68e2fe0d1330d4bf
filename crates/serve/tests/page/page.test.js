// The page in a headless browser against the real server: see harness.js for what it needs.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, open, screenshots, server, stream } from "./harness.js";

let served, launched, url;
before(async () => {
  served = await server();
  launched = await browser();
  url = served.url;
});
after(async () => {
  await launched?.close();
  await served?.end();
});

const tab = options => open(launched.browser, url, options);
const answer = page => page.locator("article.assistant").last();
const words = async page => (await answer(page).locator(".text").textContent()) ?? "";
const idle = page => page.locator("#send").waitFor();
const limit = async (page, tokens) => {
  await page.click("#settings-button");
  await page.fill("#max-tokens", String(tokens));
  await page.click("#settings-button");
};
const say = async (page, text) => {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
};
/** Routes generations to an answer of the test's own. */
const routed = (page, fulfil) => page.route(/\/v1\/(chat\/)?completions$/, fulfil);

/** Lets a model go on to the limit, wherever it would end. */
const endless = page => page.route(/\/v1\/(chat\/)?completions$/, route =>
  route.continue({ postData: { ...route.request().postDataJSON(), ignore_eos: true } }));

test("an answer streams, and nothing comes from outside", async () => {
  const { page, asked, complaints, close } = await tab();
  await endless(page);
  await limit(page, 600);
  await page.evaluate(() => {
    const messages = document.getElementById("messages"), seen = new Set();
    new MutationObserver(() => {
      seen.add(messages.querySelector(".assistant .text")?.textContent.length ?? 0);
      globalThis.lengths = [...seen];
    }).observe(messages, { childList: true, subtree: true, characterData: true });
  });
  await say(page, "ROMEO:");
  assert.equal(await page.locator("article.user .text").textContent(), "ROMEO:");
  await page.locator("#stop").waitFor();
  await idle(page);
  // It grew while it was not complete.
  const lengths = await page.evaluate(() => globalThis.lengths);
  assert.ok(lengths.length >= 3, `seen lengths: ${lengths}`);
  assert.match(await answer(page).locator(".foot").textContent(), /^\d+ tokens · [\d.]+ tokens\/s · first after [\d.]+ s/);
  assert.equal(await page.locator("#status").textContent(), "The answer is complete.");
  assert.equal(await page.inputValue("#prompt"), "");
  const strangers = asked.map(r => new URL(r.url())).filter(u => u.origin !== new URL(url).origin);
  assert.deepEqual(strangers, []);
  // A model without a template answers the first request with 400, which the browser reports.
  assert.deepEqual(complaints.filter(c => !/status of 400/.test(c)), []);
  await close();
});

test("Shift+Enter breaks the line, an empty message is not sent", async () => {
  const { page, close } = await tab();
  await page.press("#prompt", "Enter");
  await page.fill("#prompt", "one");
  await page.press("#prompt", "Shift+Enter");
  await page.type("#prompt", "two");
  assert.equal(await page.inputValue("#prompt"), "one\ntwo");
  assert.equal(await page.locator("article").count(), 0);
  await close();
});

test("Esc and Stop end an answer and free its blocks; what came stays over a reload", async () => {
  const { page, close } = await tab();
  await endless(page);
  // The first answer is part of the second question, and both must fit into the context.
  await limit(page, 500);
  for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#stop")]) {
    await say(page, "JULIET:");
    await page.waitForFunction(() => document.querySelector("article:last-of-type.assistant .text")?.textContent.length > 20);
    await stop();
    await idle(page);
    assert.equal(await answer(page).locator(".foot").textContent(), "Stopped");
    await page.waitForFunction(() => document.getElementById("running").textContent === "0", null, { timeout: 3000 });
  }
  const before = await page.locator("article").allTextContents();
  assert.equal(before.length, 4);
  await page.reload();
  assert.deepEqual(await page.locator("article").allTextContents(), before);
  assert.equal(await page.inputValue("#max-tokens"), "500");
  await close();
});

test("Regenerate replaces the last answer, New chat begins again", async () => {
  const { page, close } = await tab();
  const bodies = [];
  let n = 0;
  await routed(page, route => {
    bodies.push(route.request().postDataJSON());
    return route.fulfill(stream([`answer ${n += 1}`]));
  });
  await page.click("#settings-button");
  await page.fill("#system", "Be brief.");
  await page.fill("#temperature", "0.5");
  await say(page, "first");
  await idle(page);
  await say(page, "second");
  await idle(page);
  await page.click("#regenerate");
  await idle(page);
  assert.deepEqual(await page.locator("article .text").allTextContents(), ["first", "answer 1", "second", "answer 3"]);
  const last = bodies.at(-1);
  assert.deepEqual(last.messages, [
    { role: "system", content: "Be brief." }, { role: "user", content: "first" },
    { role: "assistant", content: "answer 1" }, { role: "user", content: "second" },
  ]);
  assert.equal(last.temperature, 0.5);
  assert.equal(last.stream, true);
  assert.deepEqual(bodies[1].messages, last.messages);
  await page.click("#new");
  assert.equal(await page.locator("article").count(), 0);
  assert.ok(await page.locator("#regenerate").isDisabled());
  await close();
});

test("what a model says is shown and never run", async () => {
  const { page, complaints, close } = await tab();
  const said = ["<img src=x onerror=\"document.title='run'\"> **bo", "ld** and `a < b`\n\n", "```html\n<scr", "ipt>document.title='run'</script>\n```\n",
    "1. one\n2. two\n\n[link](javascript:document.title='run')"];
  await routed(page, route => route.fulfill(stream(said, { usage: { completion_tokens: 5 } })));
  await say(page, "<b>me too</b>");
  await idle(page);
  assert.equal(await page.locator("article :is(img, script, a, b)").count(), 0);
  assert.match(await words(page), /<img src=x onerror=.*bold and a < b/);
  assert.equal(await answer(page).locator("strong").textContent(), "bold");
  assert.equal(await answer(page).locator("pre code").textContent(), "<script>document.title='run'</script>");
  assert.equal(await answer(page).locator("ol li").count(), 2);
  assert.equal(await page.locator("article.user .text").textContent(), "<b>me too</b>");
  assert.equal(await page.title(), "Infinity");
  assert.deepEqual(complaints, []);
  await close();
});

test("errors are shown in words", async () => {
  const { page, close } = await tab();
  const json = (status, message, more = {}) => ({ status, contentType: "application/json",
    body: JSON.stringify({ error: { message, type: "error", param: null, code: null } }), ...more });
  const cases = [
    [json(429, "5 requests are waiting", { headers: { "retry-after": "7" } }), "5 requests are waiting Try again in 7 s."],
    [json(401, "A key is needed."), "A key is needed. Enter a key under Settings."],
    [{ status: 502, contentType: "text/html", body: "<h1>no</h1>" }, "The server answered with status 502."],
    [stream(["some words ", { error: { message: "The engine failed and was restarted.", code: null } }]), "The engine failed and was restarted."],
    [stream(["half"], { done: false }), "The connection ended before the answer was complete."],
  ];
  for (const [reply, shown] of cases) {
    await routed(page, route => route.fulfill(reply));
    await say(page, "hello");
    await idle(page);
    assert.equal(await answer(page).locator(".foot.error").textContent(), shown);
    assert.equal(await page.locator("#status").textContent(), shown);
    await page.unrouteAll();
  }
  assert.equal(await words(page), "half");
  await routed(page, route => route.abort());
  await say(page, "hello");
  await idle(page);
  assert.match(await answer(page).locator(".foot.error").textContent(), /cannot be reached/);
  await page.unrouteAll();
  // The server's own words.
  await limit(page, 100_000_000);
  await say(page, "hello");
  await idle(page);
  assert.match(await answer(page).locator(".foot.error").textContent(), /context/i);
  await close();
});

test("a key is sent and kept for this tab alone", async () => {
  const { page, asked, close } = await tab();
  await page.click("#settings-button");
  await page.fill("#key", "secret");
  await page.press("#key", "Tab");
  await page.waitForTimeout(50);
  const listed = asked.filter(r => r.url().endsWith("/v1/models"));
  assert.equal(listed.at(-1).headers().authorization, "Bearer secret");
  const stores = await page.evaluate(() => [JSON.stringify({ ...sessionStorage }), JSON.stringify({ ...localStorage })]);
  assert.match(stores[0], /secret/);
  assert.doesNotMatch(stores[1], /secret/);
  await close();
});

test("where a key is wanted the page asks for one, and goes on with it", async () => {
  const context = await launched.browser.newContext();
  const page = await context.newPage();
  const refusal = { status: 401, contentType: "application/json", body: JSON.stringify({ error: { message: "A key is needed.", code: null } }) };
  await page.route("**/v1/models", route =>
    (route.request().headers().authorization === "Bearer right" ? route.continue() : route.fulfill(refusal)));
  await page.goto(url);
  await page.locator("#settings").waitFor();
  assert.equal(await page.locator("#note").textContent(), "No list of models. A key is needed. Enter a key under Settings.");
  assert.ok(await page.locator("#model").isDisabled());
  await page.fill("#key", "right");
  await page.press("#key", "Tab");
  await page.waitForFunction(() => !document.getElementById("model").disabled);
  assert.ok(await page.locator("#note").isHidden());
  await context.close();
});

test("the live view shows the engine", async () => {
  const { page, complaints, close } = await tab();
  const count = id => page.locator(`#${id}`).textContent().then(t => Number(t.replace(/\D/g, "")));
  await page.locator("#live-body").waitFor();
  await endless(page);
  await limit(page, 600);
  await say(page, "HAMLET:");
  await page.waitForFunction(() => Number(document.getElementById("running").textContent) >= 1);
  await page.locator("#sequences li").first().waitFor();
  await page.waitForFunction(() => Number(document.getElementById("generated-rate").textContent.replace(/\D/g, "")) > 0);
  await page.evaluate(() => document.getElementById("stop").click());
  const [used, idleBlocks, free] = await Promise.all(["used", "idle", "free"].map(count));
  const label = await page.locator("#map").getAttribute("aria-label");
  assert.equal(used + idleBlocks + free, Number(/of (\d+) blocks/.exec(label)[1]));
  // Not an empty canvas, and the pointer names a block.
  const colours = await page.locator("#map").evaluate(canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
  assert.ok(colours >= 2, `${colours} colours`);
  await page.locator("#map").hover({ position: { x: 2, y: 2 } });
  assert.match(await page.locator("#tip").textContent(), /^Block 0: (free|used|shared|cached)/);
  assert.ok(await page.locator("#speculation").isHidden());
  assert.deepEqual(complaints.filter(c => !/status of 400/.test(c)), []);
  await close();
});

test("the page rests while it is not seen", async () => {
  const { page, close } = await tab({ viewport: { width: 360, height: 740 } });
  await page.waitForTimeout(300);
  assert.ok(await page.locator("#live").isHidden());
  await page.click("[data-show=live]");
  const request = page.waitForEvent("requestfailed", r => r.url().endsWith("/live"));
  await page.locator("#live-body").waitFor();
  await page.click("[data-show=chat]");
  await request;
  await close();
});

test("every control has a name and every text can be read", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const { page, close } = await tab({ colorScheme });
    await page.click("#settings-button");
    await routed(page, route => route.fulfill(stream(["text `code`\n\n> quote"], { usage: { completion_tokens: 3 } })));
    await say(page, "hello");
    await idle(page);
    await page.locator("#live-body").waitFor();
    const cdp = await page.context().newCDPSession(page);
    const { nodes } = await cdp.send("Accessibility.getFullAXTree");
    const roles = ["button", "textbox", "combobox", "spinbutton", "log", "image", "region"];
    const controls = nodes.filter(n => !n.ignored && roles.includes(n.role?.value));
    assert.ok(controls.length > 10, `${controls.length} controls`);
    assert.deepEqual(controls.filter(n => !n.name?.value).map(n => n.role.value), []);
    const faint = await page.evaluate(unreadable);
    assert.deepEqual(faint, [], colorScheme);
    await close();
  }
});

/** Runs in the page: visible texts whose contrast with what is behind them is under 4.5 to 1. */
function unreadable() {
  const rgb = text => {
    const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    c.fillStyle = text;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => ((v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4));
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const out = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, .hidden, noscript, option")) continue;
    let behind = element;
    while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const pair = [rgb(getComputedStyle(element).color), rgb(getComputedStyle(behind ?? document.body).backgroundColor)].map(luminance);
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < 4.5) out.push(`${element.tagName} "${element.textContent.trim().slice(0, 20)}" ${ratio.toFixed(2)}`);
  }
  return out;
}

test("the theme follows the system until the other one is chosen", async () => {
  const { page, close } = await tab({ colorScheme: "dark" });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  assert.equal(await page.getAttribute("#theme", "aria-pressed"), "true");
  await page.click("#theme");
  const light = await background();
  assert.notEqual(light, dark);
  await page.reload();
  assert.equal(await background(), light);
  await page.click("#theme");
  assert.equal(await background(), dark);
  assert.equal(await page.evaluate(() => localStorage.getItem("theme")), null);
  await close();
});

test("screenshots, without anything wider than the window", async () => {
  mkdirSync(screenshots, { recursive: true });
  for (const colorScheme of ["light", "dark"]) for (const [name, width, height] of [["narrow", 360, 740], ["wide", 1280, 800]]) {
    const { page, close } = await tab({ colorScheme, viewport: { width, height }, deviceScaleFactor: 2 });
    const shot = view => page.screenshot({ path: path.join(screenshots, `${name}-${colorScheme}-${view}.png`) });
    await limit(page, 400);
    const model = await page.inputValue("#model"), leave = new AbortController();
    // Company, so that there is something to see.
    const others = Array.from({ length: 4 }, (_, i) => fetch(new URL("v1/completions", url), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, prompt: `To be, or not to be, that is the question: ${"whether ".repeat(40 * i)}`, max_tokens: 500 }),
      signal: leave.signal,
    }).then(r => r.text()));
    await say(page, "ROMEO:");
    await page.waitForTimeout(500);
    await shot("chat");
    if (name === "narrow") {
      await page.click("[data-show=live]");
      await page.locator("#live-body").waitFor();
      await page.waitForTimeout(600);
      await shot("live");
    }
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}`);
    await close();
    leave.abort();
    await Promise.allSettled(others);
  }
});
