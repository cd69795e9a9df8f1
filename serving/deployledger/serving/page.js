"use strict";
const MOST_ROWS = 100, LARGEST_BODY = 2000;
const model = JSON.parse(document.body.dataset.description);
const isInference = model.form === "open_inference";
const at = (path) => new URL(path, document.baseURI).href.replaceAll("'", "%27");
const url = at(isInference ? `v2/models/${encodeURIComponent(model.name)}/infer` : "invocations");
const byId = (id) => document.getElementById(id);

// Text from outside is shown as text, and what cannot be seen in it is spelled out.
const visible = (text) => String(text).replace(/(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => typeof child === "string" ? visible(child) : child));
  return made;
}

// A field for each input ------------------------------------------------------------------------------

const flat = (value) => Array.isArray(value) ? value.flatMap(flat) : [value];
const isText = (input) => /^(bytes|str|datetime)/i.test(input.datatype);
const isTruth = (input) => /^bool/i.test(input.datatype);
const shapeText = (shape) => `[${shape.map((size) => size < 0 ? "any" : size).join(", ")}]`;
const typeText = ({ datatype, shape }) => shape === null || model.form === "dataframe_split" ? datatype : `${datatype} ${shapeText(shape)}`;
const spaced = (value) => Array.isArray(value) ? `[${value.map(spaced).join(", ")}]` : JSON.stringify(value);
const oneARow = (value) => Array.isArray(value) && value.length > 1 && Array.isArray(value[0])
  ? `[\n  ${value.map(spaced).join(",\n  ")}\n]` : spaced(value);

function shapeOf(value) {
  if (!Array.isArray(value)) return [];
  const shapes = value.map(shapeOf);
  if (shapes.some((shape) => String(shape) !== String(shapes[0]))) throw new Error("The nested arrays are not all of the same length.");
  return [value.length, ...(shapes[0] ?? [])];
}

class Field {
  constructor(input, number) {
    this.input = input;
    this.name = input.name ?? (model.inputs.length > 1 ? `input ${number + 1}` : "input");
    this.isSingle = input.shape !== null && input.shape.every((size) => size === 1 || size < 0);
    const id = `field-${number}`;
    if (this.isSingle && isTruth(input)) {
      this.control = element("select", { id }, element("option", {}, "false"), element("option", {}, "true"));
      this.control.options[this.initial() === "true" ? 1 : 0].defaultSelected = true;
    } else {
      this.control = element(this.isSingle ? "input" : "textarea", { id, spellcheck: "false", autocomplete: "off" });
      this.control.defaultValue = this.initial();
    }
    this.hasZeros = !this.isSingle && input.example === null && input.shape !== null;
    if (this.hasZeros) this.control.placeholder = `JSON of shape ${shapeText(input.shape)}; zeros, if left empty`;
    const label = element("label", { for: id }, element("span", {}, this.name), element("small", {}, this.isSingle ? input.datatype : typeText(input)));
    this.element = element("div", { class: "field" }, label, this.control);
  }

  initial() {
    const { example } = this.input;
    if (example === null) return "";
    if (!this.isSingle) return oneARow(example);
    const [value] = flat(example);
    return isText(this.input) ? String(value) : JSON.stringify(value);
  }

  // The value as JSON, in the words that were typed: JavaScript's numbers would lose digits.
  json() {
    const typed = this.control.value;
    if (this.hasZeros && !typed.trim()) return this.zeros(this.input.shape);
    if (!this.isSingle) return this.parsed(typed) && typed.trim();
    const one = isText(this.input) ? JSON.stringify(typed) : this.parsed(typed) && typed.trim();
    return "[".repeat(this.input.shape.length) + one + "]".repeat(this.input.shape.length);
  }

  zeros([size, ...others]) {
    if (size === undefined) return isText(this.input) ? '""' : isTruth(this.input) ? "false" : "0";
    return `[${Array(size < 0 ? 1 : size).fill(this.zeros(others)).join(", ")}]`;
  }

  parsed(typed) {
    try {
      return [JSON.parse(typed)];
    } catch {
      throw new Error(`${this.name}: ${!typed.trim() ? "empty" : this.isSingle ? "not a number" : "not JSON"}.`);
    }
  }

  ofRequest() {
    const json = this.json();
    let shape;
    try {
      shape = shapeOf(JSON.parse(json));
    } catch (error) {
      throw new Error(`${this.name}: ${error.message}`);
    }
    const data = json.replace(/"(?:[^"\\]|\\.)*"|[[\]]/g, (token) => token[0] === '"' ? token : "");
    return `{"name": ${JSON.stringify(this.input.name)}, "datatype": ${JSON.stringify(this.input.datatype)}, `
      + `"shape": [${shape.join(", ")}], "data": [${data.replace(/\s+/g, (space) => space.includes("\n") ? " " : space).trim()}]}`;
  }
}

// Of a model without a signature no input is known, only how MLflow's requests are written.
class Body extends Field {
  constructor() {
    super({ name: "request", datatype: "JSON", shape: null, example: null }, 0);
    const example = model.example ?? { dataframe_split: { columns: ["column"], data: [[0]] } };
    this.control.defaultValue = JSON.stringify(example, null, 2);
  }
}

const fields = model.inputs.length ? model.inputs.map((input, number) => new Field(input, number)) : [new Body()];

function requestBody() {
  const each = (toJson) => fields.map((field) => {
    field.control.removeAttribute("aria-invalid");
    try {
      return toJson(field);
    } catch (error) {
      error.field = field;
      throw error;
    }
  });
  if (!model.inputs.length) return each((field) => field.json())[0];
  if (isInference) return `{"inputs": [${each((field) => field.ofRequest()).join(", ")}]}`;
  const names = fields.map((field) => JSON.stringify(field.input.name));
  const values = each((field) => field.json());
  if (model.form === "dataframe_split") {
    const row = values.map((value, number) => fields[number].isSingle ? value.slice(1, -1) : value);
    return `{"dataframe_split": {"columns": [${names.join(", ")}], "data": [[${row.join(", ")}]]}}`;
  }
  if (names[0] === "null") return `{"inputs": ${values[0]}}`;
  return `{"inputs": {${names.map((name, number) => `${name}: ${values[number]}`).join(", ")}}}`;
}

// Code that sends the same request --------------------------------------------------------------------

const PYTHON = { true: "True", false: "False", null: "None" };

function showCode() {
  let body;
  try {
    body = requestBody();
  } catch { // what it was before stays
    byId("code").parentElement.hidden = !byId("curl").textContent;
    return;
  }
  byId("code").parentElement.hidden = false;
  const isLarge = body.length > LARGEST_BODY;
  byId("saving").hidden = !isLarge;
  URL.revokeObjectURL(byId("save").href);
  byId("save").href = isLarge ? URL.createObjectURL(new Blob([body])) : "#";
  const data = isLarge ? "@request.json" : `'${body.replaceAll("'", "\\u0027")}'`;
  byId("curl").textContent = `curl '${url}' \\\n  -H 'Content-Type: application/json' \\\n  -d ${data}`;
  const literal = body.replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (token) => PYTHON[token] ?? token);
  byId("python").textContent = "import json\nfrom urllib.request import Request, urlopen\n\n"
    + `url = ${JSON.stringify(url)}\n`
    + (isLarge ? `body = json.load(open("request.json"))\n` : `body = ${literal}\n`)
    + `request = Request(url, json.dumps(body).encode())\nrequest.add_header("Content-Type", "application/json")\n`
    + "with urlopen(request) as response:\n    print(json.load(response))";
}

async function copy(button) {
  const text = byId(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    byId("copied").textContent = "Copied.";
    button.firstChild.data = "Copied";
    setTimeout(() => { button.firstChild.data = "Copy"; }, 1500);
  } catch { // not over plain HTTP from another machine
    getSelection().selectAllChildren(text);
  }
}

// Responses -------------------------------------------------------------------------------------------

function columnsOf(answer) {
  if (Array.isArray(answer.outputs)) {
    return answer.outputs.flatMap(({ name, shape, data, parameters }) => {
      const rows = shape.length ? shape[0] : 1, size = rows ? data.length / rows : 0, labels = parameters?.labels;
      const row = (number) => data.slice(number * size, (number + 1) * size);
      const numbers = [...Array(Math.min(rows, MOST_ROWS)).keys()];
      if (labels?.length === size) return labels.map((label, index) => ({ name: `${name}: ${label}`, rows, values: numbers.map((number) => data[number * size + index]) }));
      return [{ name, rows, values: numbers.map((number) => size === 1 ? data[number] : row(number)) }];
    });
  }
  const values = answer.predictions ?? answer;
  if (!Array.isArray(values)) {
    return typeof values !== "object" || values === null ? [{ name: "prediction", rows: 1, values: [values] }]
      : Object.entries(values).map(([name, value]) => Array.isArray(value)
        ? { name, rows: value.length, values: value.slice(0, MOST_ROWS) } : { name, rows: 1, values: [value] });
  }
  const first = values.slice(0, MOST_ROWS), rows = values.length;
  if (first.length && first.every((row) => row !== null && typeof row === "object" && !Array.isArray(row))) {
    return Object.keys(first[0]).map((name) => ({ name, rows, values: first.map((row) => row[name]) }));
  }
  return [{ name: "prediction", rows, values: first }];
}

function cell(value) {
  if (typeof value === "string") return value;
  const shorter = (key, each) => typeof each === "number" && !Number.isInteger(each) ? Number(each.toPrecision(7)) : each;
  const text = JSON.stringify(Array.isArray(value) ? value.slice(0, 8) : value, shorter)?.replaceAll(",", ", ") ?? "";
  return Array.isArray(value) && value.length > 8 ? `${text.slice(0, -1)}, … ${value.length - 8} more]` : text;
}

function showAnswer(text) {
  let answer = text, columns;
  try {
    answer = JSON.parse(text);
    columns = columnsOf(answer);
  } catch { // it is not JSON, or of another form
    columns = [];
  }
  const rows = Math.max(0, ...columns.map((column) => column.values.length));
  const header = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column.name)));
  byId("outputs").replaceChildren(element("thead", {}, header), element("tbody", {}, ...[...Array(rows).keys()].map((number) =>
    element("tr", {}, ...columns.map((column) => element("td", {}, cell(column.values[number])))))));
  const all = Math.max(0, ...columns.map((column) => column.rows));
  byId("more").hidden = all <= rows;
  byId("more").textContent = `The first ${rows} of ${all} rows.`;
  byId("json").textContent = visible(typeof answer === "string" ? answer : text.length < 5000 ? JSON.stringify(answer, null, 2) : text);
}

function reason(status, text) {
  try {
    const { error, message, detail } = JSON.parse(text);
    return visible([error, message, detail].find((said) => typeof said === "string") ?? text);
  } catch {
    return visible(text.slice(0, 1000)) || `The server responded with status ${status}.`;
  }
}

function fail(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = false;
}

async function send() {
  const [button] = byId("form").getElementsByTagName("button");
  byId("problem").hidden = byId("answer").hidden = true;
  byId("took").textContent = "";
  let body;
  try {
    body = requestBody();
  } catch (error) {
    error.field.control.setAttribute("aria-invalid", "true");
    error.field.control.focus();
    return fail(error.message);
  }
  button.disabled = true;
  const begin = performance.now();
  try {
    const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const text = await response.text();
    byId("took").textContent = `Responded in ${(performance.now() - begin).toFixed(1)} ms`;
    if (!response.ok) return fail(reason(response.status, text));
    showAnswer(text);
    byId("answer").hidden = false;
  } catch {
    fail("The endpoint does not respond.");
  } finally {
    button.disabled = false;
    checkHealth();
  }
}

async function checkHealth() {
  let isReady = false, version = model.version;
  try {
    isReady = (await fetch(at(isInference ? "v2/health/ready" : "ping"))).ok;
    version = (await (await fetch(at("."), { headers: { Accept: "application/json" } })).json()).version;
  } catch { } // it is not reachable
  const isSame = version === model.version;
  byId("health").className = isReady && isSame ? "good" : "bad";
  byId("health").textContent = !isReady ? "Not reachable" : isSame ? "Ready" : visible(`Revision ${version} serves now: reload the page`);
}

// ----------------------------------------------------------------------------------------------------

const facts = { Revision: model.version, Protocol: isInference ? "Open Inference Protocol v2" : "MLflow scoring", Files: model.digest };
for (const [term, value] of Object.entries(facts)) {
  if (value) byId("facts").append(element("div", {}, element("dt", {}, term), element("dd", { class: term === "Files" ? "mono" : "" }, value)));
}
for (const [kind, tensors] of [["Input", model.inputs], ["Output", model.outputs]]) {
  const headings = element("tr", {}, element("th", { scope: "col" }, kind), element("th", { scope: "col" }, "Type"));
  const rows = tensors.map((tensor) => element("tr", {}, element("th", { scope: "row" }, tensor.name ?? "unnamed"), element("td", {}, typeText(tensor))));
  if (rows.length) byId("tensors").append(element("tbody", {}, headings, ...rows));
}
byId("tensors").closest("section").hidden = !byId("tensors").rows.length;
byId("unknown").hidden = model.inputs.length > 0;
byId("fields").append(...fields.map((field) => field.element));
byId("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
byId("form").addEventListener("reset", () => setTimeout(showCode));
byId("form").addEventListener("input", showCode);
byId("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(); });
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
document.addEventListener("visibilitychange", () => { if (!document.hidden) checkHealth(); });
showCode();
checkHealth();
