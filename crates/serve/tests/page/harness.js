// A server and a headless browser for the tests of the page.
//
//   INFINITY_URL    a server that runs already, or
//   INFINITY        the program to start (target/release/infinity), with
//   INFINITY_MODEL  its model (assets/bard-f16.gguf)
//   CHROMIUM        the browser (/usr/bin/chromium)
//   SCREENSHOTS     a folder for pictures (target/page)

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const root = path.resolve(import.meta.dirname, "../../../..");
const env = process.env;
export const screenshots = path.resolve(root, env.SCREENSHOTS ?? "target/page");

/** Starts the server, and resolves to its address and a way to end it. */
export async function server() {
  if (env.INFINITY_URL) return { url: env.INFINITY_URL.replace(/\/?$/, "/"), end: async () => {} };
  const program = path.resolve(root, env.INFINITY ?? "target/release/infinity");
  const model = path.resolve(root, env.INFINITY_MODEL ?? "assets/bard-f16.gguf");
  const child = spawn(program, ["serve", model, "--port", "0"], { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise(resolve => child.on("exit", code => resolve(code)));
  let said = "";
  const url = await new Promise((resolve, reject) => {
    const listen = data => {
      said += data;
      const address = /http:\/\/[\w.:[\]]+:\d+/.exec(said);
      if (address) resolve(address[0] + "/");
    };
    child.stdout.on("data", listen);
    child.stderr.on("data", listen);
    child.on("error", reject);
    ended.then(code => reject(new Error(`the server ended with ${code}: ${said}`)));
    setTimeout(() => reject(new Error(`no address after 60 s: ${said}`)), 60_000).unref();
  });
  const end = async () => {
    child.kill("SIGTERM");
    return ended;
  };
  return { url, end };
}

/** A browser that asks nobody but the server: no updates, no variations, no proxies. */
export async function browser() {
  const profile = mkdtempSync(path.join(tmpdir(), "infinity-page-"));
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const launched = await chromium.launch({ executablePath: env.CHROMIUM ?? "/usr/bin/chromium", args, env: { ...env, HOME: profile } });
  const close = async () => {
    await launched.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { browser: launched, close };
}

/** A tab at the page, with a record of what it asked for and complained of. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  const asked = [], complaints = [];
  page.on("request", request => asked.push(request));
  page.on("console", message => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", error => complaints.push(String(error)));
  await page.goto(url);
  await page.waitForFunction(() => !document.getElementById("model").disabled);
  return { page, asked, complaints, close: () => context.close() };
}

/** An answer as the API streams it, for what a model cannot be made to say. */
export const stream = (pieces, { done = true, usage } = {}) => ({
  status: 200,
  contentType: "text/event-stream",
  body: [
    ...pieces.map(p => (typeof p === "string" ? { choices: [{ index: 0, delta: { content: p }, finish_reason: null }] } : p)),
    ...(usage ? [{ choices: [], usage }] : []),
  ].map(chunk => `data: ${JSON.stringify(chunk)}\n\n`).join("") + (done ? "data: [DONE]\n\n" : ""),
});
