// Opens the dashboard in Chromium while a training writes to it. Prints one JSON object of what it saw; the test that
// started it judges. Arguments: a JSON object {base, shots, live, candidate, hostile, held, delivery, token, module}.
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";

const given = JSON.parse(process.argv[2]);
const { chromium } = createRequire(given.module)("playwright-core");
const { default: AxeBuilder } = createRequire(given.axe)("@axe-core/playwright");
mkdirSync(given.shots, { recursive: true });

const seen = { dialogs: 0, violations: [], errors: [], overflow: [], requests: [], axe: [], axePages: 0, axePasses: 0 };
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

// Every rule of axe that applies; what hinders people (serious, critical) is kept.
async function accessible(page) {
  const found = await new AxeBuilder({ page }).analyze();
  seen.axePages += 1;
  seen.axePasses += found.passes.length;
  for (const v of found.violations) {
    if (v.impact !== "serious" && v.impact !== "critical") continue;
    seen.axe.push(`${new URL(page.url()).pathname} ${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target} ${n.any[0]?.message ?? ""}`).join("; ")}`);
  }
}

const result = {};
try {
  const page = await open({ colorScheme: "light" });
  await look(page, "/", null);
  result.hostileTitle = await page.locator(`.runs li:has(a[href="/runs/${given.hostile}"]) .title`).textContent();
  await page.keyboard.press("Tab");
  result.firstFocus = await page.evaluate(() => document.activeElement.textContent);

  // A training in progress: log lines arrive and the curve grows while the page stays open.
  await page.goto(`${given.base}/runs/${given.live}`);
  await page.evaluate(() => {
    window.redrawn = 0;
    new MutationObserver((all) => { for (const m of all) for (const n of m.addedNodes) if (n.classList?.contains("chart")) window.redrawn += 1; })
      .observe(document.querySelector("#curves .charts"), { childList: true });
  });
  const lines = () => page.locator("#lines .l").count();
  const points = () => page.evaluate(() => document.querySelector("#curves .curve.s0").dataset.xs.split(" ").length);
  result.linesBefore = await lines();
  result.pointsBefore = await points();
  const path = await page.evaluate(() => document.querySelector("#curves .curve.s0").getAttribute("d"));
  await page.waitForFunction((n) => document.querySelectorAll("#lines .l").length >= n + 5, result.linesBefore);
  await page.waitForFunction((n) => document.querySelector("#curves .curve.s0").dataset.xs.split(" ").length >= n + 5, result.pointsBefore);
  result.linesAfter = await lines();
  result.chartEvents = await page.evaluate(() => window.redrawn);
  result.pointsAfter = await points();
  result.pathChanged = path !== (await page.evaluate(() => document.querySelector("#curves .curve.s0").getAttribute("d")));
  result.green = await page.locator("#lines .f2").count();
  result.atEnd = await page.evaluate(() => { const l = document.getElementById("lines"); return l.scrollHeight - l.scrollTop - l.clientHeight < 30; });
  result.sameDocument = await page.evaluate(() => performance.getEntriesByType("navigation").length === 1);
  await page.locator("#curves .chart svg").first().hover({ position: { x: 60, y: 60 } });
  result.readout = await page.locator(".readout").first().textContent();
  await look(page, null, null);
  await page.mouse.move(0, 0);

  // Reading back stops the log from running away; the button brings it to the end.
  await page.evaluate(() => { const l = document.getElementById("lines"); l.style.maxHeight = "80px"; l.scrollTop = l.scrollHeight; });
  await page.waitForFunction(() => document.getElementById("lines").scrollTop > 0);
  // A reader scrolls no box that was made smaller in the same frame: let the page hear of that first.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.evaluate(() => { document.getElementById("lines").scrollTop = 0; });
  await page.waitForFunction(() => document.getElementById("follow").getAttribute("aria-pressed") === "false");
  await page.locator("#follow").click();
  await page.waitForFunction(() => { const l = document.getElementById("lines"); return l.scrollHeight - l.scrollTop - l.clientHeight < 30; });
  seen.violations.push(...(await page.evaluate(() => window.violations.splice(0))));

  await look(page, `/runs/${given.hostile}`, null);
  result.hostileLog = await page.locator("#lines").textContent();
  result.hostileImages = await page.locator("main img, main script, main iframe").count();
  result.hostileIntervals = await page.locator("#results .forest").textContent();
  result.hostileData = await page.locator("#data").textContent();
  result.hostileBasis = await page.locator("#results small").last().textContent();
  result.hostileBranch = await page.locator("#header .branch").textContent();
  await look(page, `/runs/${given.candidate}`, null);
  result.gates = await page.locator("#results tbody tr").count();
  result.intervals = await page.locator("#results .forest g").count();
  result.intervalWords = await page.locator("#results .forest g title").allTextContents();
  result.cleared = await page.locator("#results .forest g.worse").count();
  result.drawnWithin = await page.evaluate(() => {
    const box = document.querySelector(".forest svg").getBoundingClientRect();
    return [...document.querySelectorAll(".forest rect, .forest circle")].every((e) => {
      const r = e.getBoundingClientRect();
      return r.width > 0 && r.left >= box.left - 1 && r.right <= box.right + 1 && r.top >= box.top && r.bottom <= box.bottom;
    });
  });
  result.histograms = await page.locator("#data svg.shares").count();
  result.tallest = await page.evaluate(() => Math.max(...[...document.querySelectorAll("#data svg.shares rect.is")].map((r) => r.getBoundingClientRect().height)));
  result.data = await page.locator("#data").textContent();
  result.report = await page.locator(".markdown").textContent();
  result.reportChart = await page.locator(".markdown .chart svg").count();
  await page.locator("#steps-detail > summary").click();
  await look(page, `/runs/${given.held}`, null);
  await look(page, "/deliveries", null);
  await look(page, `/deliveries/${given.delivery}`, null);
  await look(page, "/pools", null);
  await look(page, "/login", null);
  await look(page, "/runs/00000000-dead", null);

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

  // The whole log: a window into 120,000 lines.
  const reader = await open({ colorScheme: "light" });
  await reader.goto(`${given.base}/runs/${given.long}/log`);
  await reader.locator(".r.marked .t", { hasText: "Traceback" }).waitFor();
  result.errorLine = await reader.locator(".r.marked .t").textContent();
  result.logLines = (await reader.locator("#log-note").textContent()).split(" ·")[0];
  result.windowRows = await reader.locator(".r").count();
  await look(reader, null, "log-light");
  await reader.goto(`${given.base}/runs/${given.long}/log#train%20(seed=1):60001`);
  await reader.locator(".r.marked .t", { hasText: "60000" }).waitFor();
  result.linkedLine = await reader.locator(".r.marked .t").textContent();
  await reader.keyboard.press("/");
  await reader.keyboard.type("outofmemoryerror");
  await reader.keyboard.press("Enter");
  await reader.locator(".r.current mark").waitFor();
  result.searchMark = await reader.locator(".r.current mark").textContent();
  await reader.waitForFunction(() => !document.getElementById("log-hits").textContent.includes("+"));
  result.searchHits = await reader.locator("#log-hits").textContent();
  await reader.locator("#log-window").focus();
  await reader.keyboard.press("Home");
  await reader.locator(".r .t", { hasText: "pip install" }).waitFor();
  await reader.locator(".fold").click();
  await reader.waitForFunction(() => document.querySelector(".r:has(.fold)")?.nextElementSibling?.textContent.includes("train.py"));
  result.foldedNext = await reader.locator(".r", { has: reader.locator(".fold") }).locator("xpath=following-sibling::*[1]").locator(".t").textContent();
  await look(reader, null, null);

  // Keys.
  result.keyboard = [];
  await reader.goto(`${given.base}/repos`);
  await reader.keyboard.press("g");
  await reader.keyboard.press("r");
  await reader.waitForURL(`${given.base}/`);
  await reader.keyboard.press("j");
  await reader.keyboard.press("j");
  await reader.keyboard.press("k");
  if (await reader.evaluate(() => document.activeElement === document.querySelector(".runs .title"))) result.keyboard.push("runs");
  await reader.keyboard.press("/");
  if (await reader.evaluate(() => document.activeElement.name === "repo")) result.keyboard.push("filter");
  await reader.keyboard.press("Escape");
  await reader.keyboard.press("?");
  if (await reader.locator("#keys").isVisible()) result.keyboard.push("help");
  await reader.keyboard.press("Escape");
  await reader.keyboard.press("j");
  await reader.keyboard.press("Enter");
  await reader.waitForURL("**/runs/*");
  result.keyboard.push("list");

  // Filters, by the form.
  await reader.goto(`${given.base}/`);
  await reader.locator("input[name=author]").fill("lin");
  await reader.locator("select[name=state]").selectOption("failed");
  await reader.getByRole("button", { name: "Filter" }).click();
  await reader.waitForURL("**author=lin**");
  result.filteredTo = String(await reader.locator(".runs li").count());
  await look(reader, null, "runs-filtered-light");

  const pages = {
    runs: "/", "runs-older": "/?limit=5", repos: "/repos", repo: "/repos/ada/churn", pull: "/pulls/7/ada/churn",
    "run-compared": `/runs/${given.candidate}`, "run-live": `/runs/${given.live}`, "run-held": `/runs/${given.held}`,
    "run-failed": `/runs/${given.long}`, "run-hostile": `/runs/${given.hostile}`, log: `/runs/${given.long}/log`,
    deliveries: "/deliveries", delivery: `/deliveries/${given.delivery}`, pools: "/pools", login: "/login", missing: "/runs/00000000-dead",
  };
  for (const theme of ["light", "dark"]) {
    const wide = await open({ colorScheme: theme, viewport: { width: 1280, height: 860 } });
    const phone = await open({ colorScheme: theme, viewport: { width: 400, height: 860 } });
    for (const [name, path] of Object.entries(pages)) {
      await look(wide, path, `${name}-${theme}`);
      await accessible(wide);
      await look(phone, path, `${name}-${theme}-phone`);
    }
    result[`trendCharts`] = await wide.goto(`${given.base}/repos/ada/churn`).then(() => wide.locator("#trend .chart").count());
    result[`trendBands`] = await wide.locator("#trend path.band").count();
    result[`trendTicks`] = await wide.locator(".strip li").count();
    await wide.goto(`${given.base}/pulls/7/ada/churn`);
    result[`pullCurves`] = await wide.locator(".chart").first().locator(".curve:not(.baseline)").count();
    await wide.context().close();
    await phone.context().close();
  }
  seen.errors = seen.errors.filter((e) => !/404/.test(e));

  // A failed run again, by its button; last, since lists then show the new one.
  const again = await open({ colorScheme: "light" });
  await again.goto(`${given.base}/login?next=/runs/${given.long}`);
  await again.locator("#token").fill(given.token);
  await again.getByRole("button", { name: "Sign in" }).click();
  await again.getByRole("button", { name: "Run what failed again" }).click();
  await again.waitForFunction((old) => location.pathname.startsWith("/runs/") && location.pathname !== `/runs/${old}`, given.long);
  result.rerun = await again.locator("#header .meta").textContent();

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
