// Opens the dashboard in Chromium while a training writes to it. Prints one JSON object of what it saw; the test that
// started it judges. Arguments: a JSON object {base, shots, live, candidate, hostile, held, delivery, token, module}.
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";

const given = JSON.parse(process.argv[2]);
const { chromium } = createRequire(given.module)("playwright-core");
mkdirSync(given.shots, { recursive: true });

const seen = { dialogs: 0, violations: [], errors: [], overflow: [], requests: [] };
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

async function open(options) {
  const context = await browser.newContext({ viewport: { width: 1320, height: 940 }, ...options });
  context.setDefaultTimeout(20000);
  await context.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
  });
  const page = await context.newPage();
  page.on("dialog", (dialog) => { seen.dialogs += 1; dialog.dismiss(); });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") seen.errors.push(message.text()); });
  page.on("request", (request) => { if (!request.url().startsWith(given.base)) seen.requests.push(request.url()); });
  return page;
}

async function look(page, path, shot) {
  if (path) await page.goto(given.base + path, { waitUntil: "load" });
  await page.waitForTimeout(250); // lets fonts and first fetches settle for the picture; no result depends on it
  seen.violations.push(...(await page.evaluate(() => window.violations.splice(0))));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 0) seen.overflow.push(`${page.url()} by ${wide}`);
  if (shot) await page.screenshot({ path: `${given.shots}/${shot}.png`, fullPage: true });
}

const result = {};
try {
  const page = await open({ colorScheme: "light" });
  await look(page, "/", "runs-light");
  result.hostileTitle = await page.locator(`.runs li:has(a[href="/runs/${given.hostile}"]) .title`).textContent();
  await page.keyboard.press("Tab");
  result.firstFocus = await page.evaluate(() => document.activeElement.textContent);

  // A training in progress: log lines arrive and the curve grows while the page stays open.
  await page.goto(`${given.base}/runs/${given.live}`);
  const lines = () => page.locator("#lines .l").count();
  const points = () => page.evaluate(() => document.querySelector("#curves .curve.s0").dataset.xs.split(" ").length);
  result.linesBefore = await lines();
  result.pointsBefore = await points();
  const path = await page.evaluate(() => document.querySelector("#curves .curve.s0").getAttribute("d"));
  await page.waitForFunction((n) => document.querySelectorAll("#lines .l").length >= n + 5, result.linesBefore);
  await page.waitForFunction((n) => document.querySelector("#curves .curve.s0").dataset.xs.split(" ").length >= n + 5, result.pointsBefore);
  result.linesAfter = await lines();
  result.pointsAfter = await points();
  result.pathChanged = path !== (await page.evaluate(() => document.querySelector("#curves .curve.s0").getAttribute("d")));
  result.green = await page.locator("#lines .f2").count();
  result.atEnd = await page.evaluate(() => { const l = document.getElementById("lines"); return l.scrollHeight - l.scrollTop - l.clientHeight < 30; });
  result.sameDocument = await page.evaluate(() => performance.getEntriesByType("navigation").length === 1);
  await page.locator("#curves .chart svg").first().hover({ position: { x: 60, y: 60 } });
  result.readout = await page.locator(".readout").first().textContent();
  await look(page, null, "run-live-light");
  await page.mouse.move(0, 0);

  // Reading back stops the log from running away; the button brings it to the end.
  await page.evaluate(() => { const l = document.getElementById("lines"); l.style.maxHeight = "80px"; l.scrollTop = l.scrollHeight; });
  await page.waitForFunction(() => document.getElementById("lines").scrollTop > 0);
  await page.evaluate(() => { document.getElementById("lines").scrollTop = 0; });
  await page.waitForFunction(() => document.getElementById("follow").getAttribute("aria-pressed") === "false");
  await page.locator("#follow").click();
  await page.waitForFunction(() => { const l = document.getElementById("lines"); return l.scrollHeight - l.scrollTop - l.clientHeight < 30; });
  seen.violations.push(...(await page.evaluate(() => window.violations.splice(0))));

  await look(page, `/runs/${given.hostile}`, "run-hostile-light");
  result.hostileLog = await page.locator("#lines").textContent();
  result.hostileImages = await page.locator("main img, main script, main iframe").count();
  result.hostileBranch = await page.locator("#header .branch").textContent();
  await look(page, `/runs/${given.candidate}`, "run-compared-light");
  result.gates = await page.locator("#results tbody tr").count();
  result.report = await page.locator(".markdown").textContent();
  result.reportChart = await page.locator(".markdown .chart svg").count();
  await page.locator("#steps-detail > summary").click();
  await look(page, `/runs/${given.held}`, "run-held-light");
  await look(page, "/deliveries", "deliveries-light");
  await look(page, `/deliveries/${given.delivery}`, "delivery-light");
  await look(page, "/pools", "pools-light");
  await look(page, "/login", "login-light");
  await look(page, "/runs/00000000-dead", "missing-light");

  // Changing something: sign in, cancel the run in progress by its button.
  await page.goto(`${given.base}/login?next=/runs/${given.live}`);
  await page.locator("#token").fill("ty_api_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  result.wrongLogin = await page.getByRole("alert").textContent();
  seen.errors = seen.errors.filter((e) => !/401|404/.test(e)); // the browser's own note of those two answers
  await page.locator("#token").fill(given.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`**/runs/${given.live}`);
  await page.getByRole("button", { name: "Cancel run" }).click();
  await page.waitForURL(`**/runs/${given.live}`);
  result.cancelled = await page.locator("#header .notice").textContent();
  await look(page, null, null);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("link", { name: "Sign in" }).waitFor();

  const dark = await open({ colorScheme: "dark" });
  await look(dark, "/", "runs-dark");
  await look(dark, `/runs/${given.candidate}`, "run-compared-dark");
  await look(dark, `/runs/${given.live}`, "run-live-dark");
  await look(dark, "/deliveries", "deliveries-dark");

  const phone = await open({ colorScheme: "light", viewport: { width: 390, height: 844 } });
  await look(phone, "/", "runs-phone");
  await look(phone, `/runs/${given.candidate}`, "run-phone");
  await look(phone, "/deliveries", null);
  await look(phone, `/runs/${given.hostile}`, null);

  const plain = await open({ javaScriptEnabled: false });
  await plain.goto(`${given.base}/runs/${given.candidate}`);
  result.plainLines = await plain.locator("#lines .l").count();
  result.plainCurves = await plain.locator("#curves .curve").count();
} catch (error) {
  result.failure = String(error.stack || error);
} finally {
  await browser.close();
}
console.log(JSON.stringify({ ...result, ...seen }));
