// Looks at every page of the built documentation in headless Chromium, in both themes and at two widths:
//
//     node check.js HTML_FOLDER [PAGE…]
//
// For each it asks axe-core for violations, and whether the page scrolls sideways, asks anything of another machine, or
// has an error in its console. It exits with 1 if there is any, and with 2 if it cannot look.

import { existsSync, readdirSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const VIEWS = ["light", "dark"].flatMap((theme) => [1280, 390].map((width) => ({ theme, width })));
const BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
const AT_ONCE = 2;

const [folder, ...chosen] = process.argv.slice(2);
if (!folder || !existsSync(folder)) stop(`no built documentation in ${folder}: make docs`);

const require = createRequire(import.meta.url);
const { chromium, axe } = await packages();
const root = resolve(folder);
const pages = chosen.length ? chosen : found(root).sort();

const browser = await chromium.launch({ executablePath: program(), args: ["--no-sandbox"] });
const faults = [];
const left = [...pages];
await Promise.all(Array.from({ length: AT_ONCE }, work));
await browser.close();

for (const fault of faults.sort()) console.log(fault);
console.log(`${pages.length} pages in ${VIEWS.length} views: ${faults.length} faults`);
process.exit(faults.length ? 1 : 0);

async function work() {
  const context = await browser.newContext({ reducedMotion: "reduce" });
  const page = await context.newPage();
  for (let name = left.shift(); name; name = left.shift()) await look(page, name);
}

async function look(page, name) {
  const told = new Set();
  const tell = (where, what) => told.add(`${name}${where}: ${what}`);
  const onRequest = (request) => {
    if (!/^(file|data|blob):/.test(request.url())) tell("", `asks for ${request.url()}`);
  };
  const onError = (error) => tell("", `error: ${error.message}`);
  page.on("request", onRequest).on("pageerror", onError);
  await page.goto(pathToFileURL(join(root, name)).href);
  await page.evaluate(axe);
  // What is folded counts too; and axe sees no contrast above a gradient, which is the shadow at a table's edge.
  await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  await page.addStyleTag({ content: ".table-wrapper { background: none !important }" });
  for (const { theme, width } of VIEWS) {
    const where = ` (${theme}, ${width} px)`;
    await page.emulateMedia({ colorScheme: theme });
    await page.setViewportSize({ width, height: 900 });
    // Two frames: scripts that look at the new width have run.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) tell(where, `scrolls sideways by ${wide} px`);
    for (const { id, nodes } of await page.evaluate(violations))
      for (const node of nodes.slice(0, 3)) tell(where, `${id}: ${node} (${nodes.length} in all)`);
    if (width < 400 && !(await opensByKeyboard(page))) tell(where, "its navigation does not open by keyboard");
    await shoot(page, name, theme, width);
  }
  page.off("request", onRequest).off("pageerror", onError);
  faults.push(...told);
}

/** Whether Enter on the button brings the links of the navigation, which are out of the way before, and Escape ends it. */
async function opensByKeyboard(page) {
  const shown = () => page.locator(".sidebar-drawer a").first().isVisible();
  const states = [await shown()];
  await page.locator(".nav-overlay-icon").focus();
  for (const key of ["Enter", "Escape"]) {
    await page.keyboard.press(key);
    states.push(await shown());
  }
  return `${states}` === "false,true,false";
}

/** In the page: what axe finds. */
async function violations() {
  const results = await window.axe.run(document, {
    resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return results.violations.map(({ id, nodes }) => ({
    id,
    nodes: nodes.map((node) => `${node.target.join(" ")} — ${node.any.concat(node.all, node.none).map((c) => c.message).join("; ")}`),
  }));
}

/** With SITE_SHOTS=FOLDER: a picture of each view, to be looked at. */
async function shoot(page, name, theme, width) {
  if (!process.env.SITE_SHOTS) return;
  const path = join(process.env.SITE_SHOTS, `${name.replace(/\W+/g, "-")}-${theme}-${width}.png`);
  await page.screenshot({ path, fullPage: process.env.SITE_FULL === "1" });
}

function found(under) {
  return readdirSync(under, { withFileTypes: true }).flatMap((entry) => {
    const path = join(under, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith("_") ? [] : found(path);
    return entry.name.endsWith(".html") ? [relative(root, path)] : [];
  });
}

async function packages() {
  try {
    return {
      chromium: (await import("playwright-core")).chromium,
      axe: require("axe-core").source,
    };
  } catch (error) {
    stop(`${error.message.split("\n")[0]} (npm ci --prefix ${import.meta.dirname})`);
  }
}

/** The browser: CHROMIUM=PATH, or the first of the usual names that is there. */
function program() {
  const folders = (process.env.PATH || "").split(delimiter);
  const paths = process.env.CHROMIUM
    ? [process.env.CHROMIUM]
    : BROWSERS.flatMap((name) => folders.map((each) => join(each, name)));
  const path = paths.find((each) => existsSync(each) && statSync(each).isFile());
  if (!path) stop("no Chromium here (Debian: apt install chromium), or name one: CHROMIUM=/path/to/chromium");
  return path;
}

function stop(why) {
  console.error(`the site was not looked at: ${why}`);
  process.exit(2);
}
