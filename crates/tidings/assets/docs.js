// Makes the description of the API at /openapi.json readable. Text from it is only ever set as text.
"use strict";

const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const SCHEMAS = "#/components/schemas/";

/** An element with attributes (`text` is its text) and children; children that are null are left out. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** A line of Markdown, as far as descriptions use it: code between backticks. */
function inline(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 === 1 ? make("code", { text: part }) : part));
}

/** Paragraphs and headings of a description. */
function prose(text) {
  return (text ?? "")
    .split(/\n{2,}/)
    .filter((paragraph) => paragraph.trim() !== "")
    .map((paragraph) => {
      const heading = /^#+\s+(.*)$/.exec(paragraph);
      return heading ? make("h5", {}, inline(heading[1])) : make("p", {}, inline(paragraph.replaceAll("\n", " ")));
    });
}

function slug(text) {
  return text.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "");
}

function operationId(operation, method, path) {
  return `operation-${slug(operation.operationId ?? `${method} ${path}`)}`;
}

/** What a schema is, in a few words; a named one is a link to its description. */
function kind(schema) {
  if (schema === undefined || schema === true) return ["anything"];
  if (schema.$ref?.startsWith(SCHEMAS)) {
    const name = schema.$ref.slice(SCHEMAS.length);
    return [make("a", { href: `#schema-${slug(name)}`, text: name })];
  }
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return choices.flatMap((choice, index) => (index === 0 ? kind(choice) : [" or ", ...kind(choice)]));
  if (schema.type === "array") return ["list of ", ...kind(schema.items)];
  const types = [schema.type ?? "anything"].flat();
  const words = types.map((type) => (type === "string" && schema.format ? schema.format : type)).join(" or ");
  const bounds = [
    schema.minimum === undefined ? null : `from ${schema.minimum}`,
    schema.maximum === undefined ? null : `to ${schema.maximum}`,
    schema.default === undefined ? null : `default ${JSON.stringify(schema.default)}`,
  ].filter((bound) => bound !== null);
  return [[words, ...bounds].join(", ")];
}

/** A named thing with its kind and description, as the two parts of a definition list. */
function entry(name, schema, required, description, where) {
  const values = schema?.enum ? `One of ${schema.enum.map((value) => `\`${value}\``).join(", ")}.` : "";
  return [
    make(
      "dt",
      {},
      make("code", { text: name }),
      make("span", { class: "kind" }, where ? `${where}, ` : null, kind(schema)),
      required ? make("span", { class: "required", text: "required" }) : null,
    ),
    make("dd", {}, prose([description ?? schema?.description ?? "", values].filter((text) => text !== "").join("\n\n"))),
  ];
}

/** A value that the schema allows: the examples that it gives, and the required rest. */
function sample(schema, document_, depth = 0) {
  if (schema === undefined || depth > 6) return null;
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length > 0) return schema.examples[0];
  if (schema.$ref?.startsWith(SCHEMAS)) {
    return sample(document_.components?.schemas?.[schema.$ref.slice(SCHEMAS.length)], document_, depth + 1);
  }
  if (schema.enum) return schema.enum[0];
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return sample(choices[0], document_, depth + 1);
  const type = [schema.type ?? "object"].flat()[0];
  if (type === "array") return [sample(schema.items, document_, depth + 1)];
  if (type === "object") {
    const shown = Object.entries(schema.properties ?? {}).filter(
      ([name, property]) => (schema.required ?? []).includes(name) || property.example !== undefined,
    );
    return Object.fromEntries(shown.map(([name, property]) => [name, sample(property, document_, depth + 1)]));
  }
  return { string: "…", integer: 1, number: 1, boolean: true }[type] ?? null;
}

/** Text as one word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Shell commands that call an operation, one for each kind of body. */
function examples(method, path, operation, document_) {
  const base = document_.servers?.[0]?.url ?? "";
  const url = new URL(base.replace(/\/$/, "") + path, location.origin).href
    .replaceAll(/%7B/gi, "{")
    .replaceAll(/%7D/gi, "}")
    .replaceAll(/\{tenant_id\}/g, "$TENANT")
    .replaceAll(/\{([a-z_]+)\}/g, (_, name) => `$${name.toUpperCase()}`);
  const streams = Object.values(operation.responses ?? {}).some((response) => response.content?.["text/event-stream"]);
  const start = ["curl", streams ? "-N" : "-sS", method === "GET" ? null : `-X ${method}`, `"${url}"`];
  const schemes = document_.components?.securitySchemes ?? {};
  const bearer = (operation.security ?? []).some((names) =>
    Object.keys(names).some((name) => schemes[name]?.type === "http" && schemes[name]?.scheme === "bearer"),
  );
  const head = [start.filter((part) => part !== null).join(" ")];
  if (bearer) head.push(`-H "Authorization: Bearer $TOKEN"`);
  const bodies = Object.entries(operation.requestBody?.content ?? {});
  if (bodies.length === 0) return [head.join(" \\\n  ")];
  const one = JSON.stringify(sample(operation.requestBody.content["application/json"]?.schema, document_) ?? {});
  return bodies.map(([type]) => {
    const lines = type.includes("ndjson") ? `${one}\n${one}\n` : one;
    const data = type.includes("ndjson") ? "--data-binary" : "-d";
    return [...head, `-H "Content-Type: ${type}"`, `${data} ${quoted(lines)}`].join(" \\\n  ");
  });
}

function example(text) {
  const button = make("button", { type: "button", text: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Browsers give no clipboard to pages of plain HTTP: the text is selected for the keyboard instead.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const code = make("code", { text });
  return make("div", { class: "example" }, make("pre", { tabindex: "0" }, code), button);
}

/** Types of bodies and what they hold, as in "application/json: Problem". */
function contents(content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    make("p", {}, make("code", { text: type }), make("span", { class: "kind" }, kind(schema))),
  );
}

function security(operation, document_) {
  const words = {
    access_token: "an access token as `Authorization: Bearer`",
    api_key: "an API key as `Authorization: Bearer`",
    access_token_cookie: "an access token in a cookie",
    stream_token: "a stream token as `token`",
  };
  const names = (operation.security ?? document_.security ?? []).flatMap((names) => Object.keys(names));
  if (names.length === 0) return [];
  const ways = names.map((name) => words[name] ?? `\`${name}\``);
  return [make("h4", { text: "Who" }), make("p", {}, inline(`With ${ways.join(", or ")}.`))];
}

function section(title, children) {
  return children.length === 0 ? [] : [make("h4", { text: title }), ...children];
}

function operationCard(method, path, shared, operation, document_) {
  const parameters = [...(shared ?? []), ...(operation.parameters ?? [])].flatMap((parameter) =>
    entry(parameter.name, parameter.schema, parameter.required, parameter.description, parameter.in),
  );
  const responses = Object.entries(operation.responses ?? {}).flatMap(([status, response]) => [
    make("dt", {}, make("code", { text: status })),
    make("dd", {}, prose(response.description), contents(response.content)),
  ]);
  const commands = examples(method, path, operation, document_).map(example);
  const description = operation.description === operation.summary ? "" : operation.description;
  return make(
    "article",
    { id: operationId(operation, method, path) },
    make("h3", {}, operation.summary ?? `${method} ${path}`),
    make("p", { class: "operation" }, make("span", { class: "method", "data-method": method, text: method }), ` ${path}`),
    prose(description),
    security(operation, document_),
    section("Parameters", parameters.length === 0 ? [] : [make("dl", {}, parameters)]),
    section("Body", contents(operation.requestBody?.content)),
    section("Answers", [make("dl", {}, responses)]),
    section("By hand", commands),
  );
}

function schemaCard(name, schema) {
  const properties = Object.entries(schema.properties ?? {}).flatMap(([property, value]) =>
    entry(property, value, (schema.required ?? []).includes(property)),
  );
  const values = schema.enum ? [make("p", {}, inline(schema.enum.map((value) => `\`${value}\``).join(", ")))] : [];
  return make(
    "article",
    { id: `schema-${slug(name)}` },
    make("h3", { text: name }),
    prose(schema.description),
    values,
    properties.length === 0 ? null : make("dl", {}, properties),
  );
}

/** Operations by their first tag, in the order of the document's tags. */
function grouped(document_) {
  const groups = new Map((document_.tags ?? []).map((tag) => [tag.name, { tag, operations: [] }]));
  for (const [path, item] of Object.entries(document_.paths ?? {})) {
    for (const method of METHODS.filter((method) => item[method])) {
      const operation = item[method];
      const name = operation.tags?.[0] ?? "other";
      if (!groups.has(name)) groups.set(name, { tag: { name }, operations: [] });
      groups.get(name).operations.push({ method: method.toUpperCase(), path, shared: item.parameters, operation });
    }
  }
  return [...groups.values()].filter((group) => group.operations.length > 0);
}

function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function links(title, items) {
  const rows = items.map(([href, text]) => make("li", {}, make("a", { href, text })));
  return [make("h2", { text: title }), make("ul", {}, rows)];
}

function show(document_) {
  const main = document.getElementById("content");
  const list = document.getElementById("contents");
  document.title = `${document_.info.title}: the API`;
  document.getElementById("title").textContent = document_.info.title;
  document.getElementById("version").textContent = `API ${document_.info.version}`;
  main.replaceChildren(make("section", {}, prose(document_.info.description)));
  for (const { tag, operations } of grouped(document_)) {
    const cards = operations.map(({ method, path, shared, operation }) =>
      operationCard(method, path, shared, operation, document_),
    );
    main.append(make("section", {}, make("h2", { text: capitalised(tag.name) }), prose(tag.description), cards));
    const items = operations.map(({ method, path, operation }) => [
      `#${operationId(operation, method, path)}`,
      operation.summary ?? `${method} ${path}`,
    ]);
    list.append(...links(capitalised(tag.name), items));
  }
  const schemas = Object.entries(document_.components?.schemas ?? {});
  const cards = schemas.map(([name, schema]) => schemaCard(name, schema));
  main.append(make("section", {}, make("h2", { text: "Schemas" }), cards));
  list.append(...links("Schemas", schemas.map(([name]) => [`#schema-${slug(name)}`, name])));
  // The place that the address names did not exist when the page was opened.
  if (location.hash.length > 1) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

async function start() {
  const state = document.getElementById("state");
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    show(await response.json());
  } catch (error) {
    state.dataset.bad = "";
    state.textContent = `openapi.json can't be read: ${error.message}. Load the page again to try again.`;
  }
}

start();
