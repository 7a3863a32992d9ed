// Holds calls of GitHub's API and its webhooks against GitHub's own descriptions of them: npm @octokit/openapi and
// @octokit/webhooks-schemas. Reads {"exchanges": [...], "deliveries": [...]} from stdin, prints a summary as JSON.
//
// usage: node github-shapes.mjs <folder with node_modules>
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const root = resolve(process.argv[2]);
const require = createRequire(join(root, "package.json"));
const Ajv = require("ajv").default;
const addFormats = require("ajv-formats").default;

const input = JSON.parse(readFileSync(0, "utf8"));
const violations = [];

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
if (input.exchanges.length > 0) {
  const { operations, document, check } = api();
  for (const exchange of input.exchanges) {
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

console.log(JSON.stringify({
  operations: [...seen].sort(), exchanges: checked, events: [...events].sort(), deliveries: input.deliveries.length, violations,
}));
