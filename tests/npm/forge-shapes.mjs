// Holds calls of forges' APIs and GitHub's webhooks against their makers' own descriptions: npm @octokit/openapi and
// @octokit/webhooks-schemas, and the description in Gitea's Go module. (GitLab publishes none in a registry.)
//
// usage: node forge-shapes.mjs <target folder>                 reads {"exchanges": [...], "deliveries": [...]} from stdin, prints
//                                                              a summary as JSON
//        node forge-shapes.mjs <target folder> <folder>        checks the calls recorded in the *.jsonl files of the folder
import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";

const target = resolve(process.argv[2]);
const recorded = process.argv[3];
const root = join(target, "npm");
const require = createRequire(join(root, "package.json"));
const Ajv = require("ajv").default;
const addFormats = require("ajv-formats").default;

const input = recorded ? { exchanges: readRecorded(recorded), deliveries: [] } : JSON.parse(readFileSync(0, "utf8"));
const violations = [];

// Tests record one call of each kind; over all of them the same ones are checked once.
function readRecorded(folder) {
  const lines = new Set();
  for (const name of readdirSync(folder).filter((n) => n.endsWith(".jsonl"))) {
    for (const line of readFileSync(join(folder, name), "utf8").split("\n")) if (line) lines.add(line);
  }
  return [...lines].map((line) => JSON.parse(line));
}

// OpenAPI 3.0 says `nullable: true` where JSON Schema says `type: [..., "null"]`.
function toJsonSchema(node) {
  if (Array.isArray(node)) return node.map(toJsonSchema);
  if (node === null || typeof node !== "object") return node;
  const { nullable, example, examples, discriminator, xml, externalDocs, ...rest } = node;
  const out = {};
  for (const [key, value] of Object.entries(rest)) {
    // Keys of `properties` are names, not keywords.
    if (key === "properties" && value && typeof value === "object" && !Array.isArray(value)) {
      out[key] = Object.fromEntries(Object.entries(value).map(([name, schema]) => [name, toJsonSchema(schema)]));
    } else if (key === "enum" || key === "default" || key === "const") {
      out[key] = value;
    } else {
      out[key] = toJsonSchema(value);
    }
  }
  return nullable === true ? { anyOf: [{ type: "null" }, out] } : out;
}

function validator(options) {
  const ajv = new Ajv({ strict: false, allErrors: false, validateFormats: true, logger: false, ...options });
  addFormats(ajv);
  return ajv;
}

// Gitea describes itself in Swagger 2: parameters carry their types, the body is one of them. What it does not name is refused.
function gitea() {
  const file = join(target, "go/code.gitea.io/gitea@v1.26.0/templates/swagger/v1_json.tmpl");
  const text = readFileSync(file, "utf8").replace(/\{\{[^}]*\}\}/g, "x").replaceAll('"#/', '"gitea#/');
  const document = JSON.parse(text);
  const strict = (node) => {
    if (Array.isArray(node)) return node.map(strict);
    if (node === null || typeof node !== "object") return node;
    const out = Object.fromEntries(Object.entries(node).map(([key, value]) =>
      [key, key === "properties" ? Object.fromEntries(Object.entries(value).map(([n, v]) => [n, strict(v)])) : strict(value)]));
    if (out.properties && out.additionalProperties === undefined) out.additionalProperties = false;
    // Go writes null for an empty list or a missing object.
    if (out.$ref) return { anyOf: [{ type: "null" }, out] };
    return typeof out.type === "string" && !out.enum ? { ...out, type: [out.type, "null"] } : out;
  };
  const ajv = validator({ validateFormats: true });
  for (const format of ["int64", "int32", "uint64"]) ajv.addFormat(format, true);
  ajv.addSchema({ $id: "gitea", definitions: strict(document.definitions) });
  const operations = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    const whole = path === "/repos/{owner}/{repo}/contents/{filepath}" || path === "/repos/{owner}/{repo}/branches/{branch}";
    const pattern = path.split("/").map((part) => part.replace(/\{(\w+)\}/g,
      (_, name) => whole && (name === "filepath" || name === "branch") ? `(?<${name}>.+)` : `(?<${name}>[^/]+)`)).join("/");
    for (const [method, operation] of Object.entries(methods)) {
      operations.push({ path, method, operation, regex: new RegExp(`^${pattern}/?$`) });
    }
  }
  operations.sort((a, b) => a.path.split("{").length - b.path.split("{").length);
  const compiled = new Map();
  return { document, operations, check: (schema, value) => {
    const key = JSON.stringify(schema);
    if (!compiled.has(key)) compiled.set(key, ajv.compile(strict(schema)));
    const validate = compiled.get(key);
    return validate(value) ? null : ajv.errorsText(validate.errors.slice(0, 3));
  } };
}

function holdAgainstGitea(exchanges) {
  const { document, operations, check } = gitea();
  const local = (node) => node?.$ref ? node.$ref.replace(/^gitea#\//, "").split("/").reduce((at, key) => at[key], document) : node;
  for (const exchange of exchanges) {
    const say = (what) => violations.push(`gitea ${exchange.method} ${exchange.path}: ${what}`);
    checked += 1;
    const found = operations.find((o) => o.method === exchange.method.toLowerCase() && o.regex.test(exchange.path));
    if (!found) { say("is no operation of the API"); continue; }
    seen.add(`gitea/${found.operation.operationId}`);
    const parameters = (found.operation.parameters ?? []).map(local);
    for (const [name, value] of new URLSearchParams(exchange.query)) {
      const parameter = parameters.find((p) => p.in === "query" && p.name === name);
      if (!parameter) { say(`query parameter ${name} is not documented`); continue; }
      const given = parameter.type === "integer" ? Number(value) : parameter.type === "boolean" ? value === "true" : value;
      const wrong = check({ type: parameter.type, ...(parameter.enum ? { enum: parameter.enum } : {}) }, given);
      if (wrong) say(`query parameter ${name}: ${wrong}`);
    }
    const body = parameters.find((p) => p.in === "body");
    if (body && exchange.request !== null) {
      const wrong = check(body.schema, exchange.request);
      if (wrong) say(`request: ${wrong}`);
    } else if (exchange.request !== null) {
      say("has a body, but none is documented");
    }
    if (exchange.injected || exchange.status >= 400) continue;
    const response = local(found.operation.responses[String(exchange.status)]);
    if (!response) { say(`status ${exchange.status} is not documented`); continue; }
    // A folder's contents are a list of what a file's are, which Gitea describes only for the file.
    const list = found.path.endsWith("/contents/{filepath}") && Array.isArray(exchange.response);
    const schema = list ? { type: "array", items: response.schema } : response.schema;
    const wrong = schema && check(schema, exchange.response);
    if (wrong) say(`response ${exchange.status}: ${wrong}`);
  }
}

function api() {
  const file = join(root, "node_modules/@octokit/openapi/generated/api.github.com.json");
  const text = readFileSync(file, "utf8").replaceAll('"#/components/', '"gh#/components/');
  const document = JSON.parse(text);
  const ajv = validator();
  ajv.addSchema({ $id: "gh", components: toJsonSchema(document.components) });
  const operations = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    // A file's path may hold slashes.
    const pattern = path.split("/").map((part) => part.replace(/[.*+?^$()|[\]\\]/g, "\\$&")
      .replace(/\{path\}/g, "(?<path>.+)").replace(/\{(\w+)\}/g, "(?<$1>[^/]+)")).join("/");
    for (const [method, operation] of Object.entries(methods)) {
      if (operation?.responses) operations.push({ path, method, operation, regex: new RegExp(`^${pattern}$`) });
    }
  }
  // Literal paths before those with names in them.
  operations.sort((a, b) => a.path.split("{").length - b.path.split("{").length);
  const compiled = new Map();
  return { ajv, operations, document, check: (schema, value) => {
    if (!compiled.has(schema)) compiled.set(schema, ajv.compile(toJsonSchema(schema)));
    const validate = compiled.get(schema);
    return validate(value) ? null : ajv.errorsText(validate.errors.slice(0, 3));
  } };
}

const deref = (document, node) => node?.$ref
  ? node.$ref.replace(/^gh/, "").split("/").slice(1).reduce((at, key) => at[key.replaceAll("~1", "/").replaceAll("~0", "~")], document)
  : node;

const seen = new Set();
let checked = 0;
const of = (forge) => input.exchanges.filter((exchange) => exchange.forge === forge);
const githubs = of("github");
if (githubs.length > 0) {
  const { operations, document, check } = api();
  for (const exchange of githubs) {
    // An ordered failure is not an answer that the sandbox made; its request is ours all the same.
    const where = `${exchange.method} ${exchange.path}`;
    const say = (what) => violations.push(`${where}: ${what}`);
    const found = operations.find((o) => o.method === exchange.method.toLowerCase() && o.regex.test(exchange.path));
    checked += 1;
    if (!found) { say("is no operation of the API"); continue; }
    seen.add(found.operation.operationId);
    const parameters = (found.operation.parameters ?? []).map((p) => deref(document, p));
    const typed = (schema, text) => {
      const kind = deref(document, schema)?.type;
      return kind === "integer" || kind === "number" ? Number(text) : kind === "boolean" ? text === "true" : text;
    };
    for (const [name, value] of Object.entries(found.regex.exec(exchange.path).groups ?? {})) {
      const parameter = parameters.find((p) => p.in === "path" && p.name === name);
      const wrong = parameter && check(parameter.schema, typed(parameter.schema, decodeURIComponent(value)));
      if (wrong) say(`path parameter ${name}: ${wrong}`);
    }
    for (const [name, value] of new URLSearchParams(exchange.query)) {
      const parameter = parameters.find((p) => p.in === "query" && p.name === name);
      if (!parameter) { say(`query parameter ${name} is not documented`); continue; }
      const wrong = check(parameter.schema, typed(parameter.schema, value));
      if (wrong) say(`query parameter ${name}: ${wrong}`);
    }
    const body = deref(document, found.operation.requestBody);
    if (body) {
      const schema = body.content["application/json"].schema;
      const wrong = check(schema, exchange.request);
      if (wrong) say(`request: ${wrong}`);
      const known = Object.keys(deref(document, schema).properties ?? {});
      for (const key of Object.keys(exchange.request ?? {})) {
        if (!known.includes(key)) say(`request: ${key} is not documented`);
      }
    } else if (exchange.request !== null) {
      say("has a body, but none is documented");
    }
    if (exchange.injected) continue;
    const response = deref(document, found.operation.responses[String(exchange.status)]);
    if (!response) {
      // GitHub documents few of its refusals for each operation; they all look like its basic error.
      const basic = document.components.schemas["basic-error"];
      const wrong = exchange.status >= 400 ? check(basic, exchange.response) : `status ${exchange.status} is not documented`;
      if (wrong) say(`response ${exchange.status}: ${wrong}`);
      continue;
    }
    const schema = response.content?.["application/json"]?.schema;
    const wrong = schema && check(schema, exchange.response);
    if (wrong) say(`response ${exchange.status}: ${wrong}`);
  }
}

if (of("gitea").length > 0) holdAgainstGitea(of("gitea"));

const events = new Set();
if (input.deliveries.length > 0) {
  const document = JSON.parse(readFileSync(join(root, "node_modules/@octokit/webhooks-schemas/schema.json"), "utf8"));
  const ajv = validator({ validateFormats: false });
  ajv.addSchema({ ...document, $id: "hooks" });
  for (const { event, payload } of input.deliveries) {
    const name = [`${event}$${payload.action}`, `${event}$event`].find((n) => document.definitions[n]);
    if (!name) { violations.push(`webhook ${event} ${payload.action}: is no event of GitHub`); continue; }
    events.add(name);
    const validate = ajv.getSchema(`hooks#/definitions/${name.replace("$", "%24")}`) ?? ajv.compile({ $ref: `hooks#/definitions/${name}` });
    if (!validate(payload)) violations.push(`webhook ${name}: ${ajv.errorsText(validate.errors.slice(0, 3))}`);
  }
}

if (recorded) {
  for (const line of violations.slice(0, 40)) console.log(`not as its maker describes it: ${line}`);
  const count = (prefix) => [...seen].filter((name) => name.startsWith("gitea/") === (prefix === "gitea")).length;
  console.log(`FIGURE recorded_calls github=${githubs.length} github_operations=${count("github")} gitea=${of("gitea").length} `
    + `gitea_operations=${count("gitea")} gitlab_undescribed=${of("gitlab").length} violations=${violations.length}`);
  process.exit(violations.length === 0 && githubs.length > 0 ? 0 : 1);
}
console.log(JSON.stringify({
  operations: [...seen].sort(), exchanges: checked, events: [...events].sort(), deliveries: input.deliveries.length, violations,
}));
