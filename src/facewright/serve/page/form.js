// The form of a task, made from the JSON schema that the server gives for it.

const WORDS = { gps: "GPS" };
const FIRST = [
  "model", "background", "upscale", "fidelity", "grain", "hair", "relight", "old_photo", "scratches", "tones",
  "damage_mask",
]; // what people look for, where a task has many options
const MANY = 8;

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "dataset") Object.assign(made.dataset, value);
    else if (key.startsWith("aria-") || key === "for" || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function label(name) {
  const words = name.split("_").map((word) => WORDS[word] || word);
  words[0] = words[0][0].toUpperCase() + words[0].slice(1);
  return words.join(" ");
}

// Fields are {name, schema, control, file, get()}; get gives the value to send, or null for the default.
export class Form {
  constructor(container, onChange) {
    this.container = container;
    this.fields = new Map();
    container.addEventListener("input", () => {
      this.#arrange();
      onChange();
    });
  }

  build(task) {
    this.fields.clear();
    const basic = [];
    const more = [];
    const schemas = Object.entries(task.form.properties).filter(
      ([name, schema]) => !task.inputs.includes(name) && !task.live.includes(name) && !isList(schema),
    );
    const names = [...Object.keys(task.networks), ...schemas.map(([name]) => name)];
    const ordered = [...new Set(names)].sort((a, b) => rank(a, task) - rank(b, task));
    for (const name of ordered) {
      const field = task.networks[name]
        ? networkField(name, task.form.properties[name], task.networks[name])
        : name === "weights"
          ? null
          : optionField(name, task.form.properties[name]);
      if (!field) continue;
      this.fields.set(name, field);
      (rank(name, task) < 1000 ? basic : more).push(field.row);
    }
    this.container.replaceChildren(...basic);
    if (more.length) {
      const inner = element("div", { className: "form" }, ...more);
      this.container.append(element("details", {}, element("summary", { textContent: "More" }), inner));
    }
    this.#arrange();
  }

  // Pairs of name and value that differ from the defaults.
  values() {
    const found = [];
    for (const [name, field] of this.fields) {
      if (field.row.hidden) continue;
      const value = field.get();
      if (Array.isArray(value)) found.push(...value.map((one) => [name, one]));
      else if (value !== null && value !== "") found.push([name, value]);
    }
    return found;
  }

  // What depends on another option ("With old_photo: …") is shown while that is on.
  #arrange() {
    for (const field of this.fields.values()) {
      const condition = this.fields.get(field.under);
      field.row.hidden = Boolean(condition) && condition.get() === null;
      field.row.classList.toggle("inset", Boolean(condition));
    }
  }
}

function rank(name, task) {
  const place = FIRST.indexOf(name);
  if (place >= 0) return place;
  if (task.own.includes(name) && task.own.length <= MANY) return 100 + task.own.indexOf(name);
  return 1000;
}

function isList(schema) {
  return schema.type === "array" || (schema.anyOf || []).some((part) => part.type === "array");
}

function optionField(name, schema) {
  const [, under, text] = /^With (\w+): (.*)$/.exec(schema.description || "") || [null, "", schema.description || ""];
  const help = text ? text[0].toUpperCase() + text.slice(1) : "";
  const made = control(name, schema);
  const id = `option-${name}`;
  made.input.id = id;
  const said = element("p", { className: "help", id: `${id}-help`, textContent: help });
  made.input.setAttribute("aria-describedby", said.id);
  const title = element("label", { for: id }, made.check ? made.input : "", label(name), made.output || "");
  const row = element("div", { className: made.check ? "field check" : "field" }, title);
  if (!made.check) row.append(made.input);
  if (made.file) row.append(made.file);
  row.append(said);
  return { row, under, get: made.get };
}

function control(name, schema) {
  const kinds = schema.anyOf || [schema];
  const isFile = kinds.some((kind) => kind.format === "binary");
  if (isFile) return pictureControl(name, kinds);
  if (schema.items && schema.items.format === "binary") return picturesControl(name);
  if (schema.enum) return choiceControl(schema.enum, schema.default, name);
  const kind = kinds.find((part) => part.type && part.type !== "null") || { type: "string" };
  if (kind.type === "boolean") {
    const input = element("input", { type: "checkbox", checked: Boolean(schema.default) });
    const get = () => (input.checked === Boolean(schema.default) ? null : String(input.checked));
    return { input, get, check: true };
  }
  const isNumber = kind.type === "number" || kind.type === "integer";
  const { minimum, maximum } = schema;
  if (isNumber && minimum !== undefined && maximum !== undefined) return rangeControl(kind, schema);
  const input = element("input", { type: isNumber ? "number" : "text" });
  if (isNumber) {
    input.step = kind.type === "integer" ? "1" : "any";
    if (minimum !== undefined) input.min = minimum;
    if (maximum !== undefined) input.max = maximum;
  }
  if (schema.default !== undefined) input.value = schema.default;
  const get = () => (input.value === String(schema.default ?? "") ? null : input.value);
  return { input, get };
}

function rangeControl(kind, schema) {
  const input = element("input", { type: "range", min: schema.minimum, max: schema.maximum });
  input.step = kind.type === "integer" ? 1 : (schema.maximum - schema.minimum) / 100;
  input.value = schema.default ?? schema.minimum;
  const output = element("output", { textContent: shown(input.value) });
  input.addEventListener("input", () => (output.textContent = shown(input.value)));
  const get = () => (Number(input.value) === schema.default ? null : input.value);
  return { input, output, get };
}

function shown(value) {
  return String(Math.round(100 * Number(value)) / 100);
}

function choiceControl(choices, initial, name) {
  const input = element("select");
  if (initial === undefined) input.append(new Option(name === "format" ? "As the photo" : "Default", ""));
  for (const choice of choices) input.append(new Option(String(choice), String(choice)));
  if (initial !== undefined) input.value = String(initial);
  const get = () => (input.value === String(initial ?? "") ? null : input.value);
  return { input, get };
}

// A picture that is sent along, or one of some words that stand for none.
function pictureControl(name, kinds) {
  const words = kinds.flatMap((kind) => kind.enum || []);
  const file = element("input", { type: "file", accept: "image/*", "aria-label": `${label(name)}: picture` });
  if (!words.length) return { input: file, get: () => file.files[0] || null };
  const input = element("select");
  for (const word of words) input.append(new Option(label(word), word));
  input.append(new Option("A picture …", "picture"));
  file.hidden = true;
  input.addEventListener("input", () => (file.hidden = input.value !== "picture"));
  const get = () => (input.value === "picture" ? file.files[0] || null : input.value === words[0] ? null : input.value);
  return { input, file, get };
}

function picturesControl(name) {
  const input = element("input", { type: "file", accept: "image/*", "aria-label": `${label(name)}: pictures` });
  input.multiple = true;
  return { input, get: () => (input.files.length ? [...input.files] : null) };
}

function networkField(name, schema, models) {
  const usable = models.filter((model) => model.ready || model.weights.length);
  if (!usable.length || (usable.length === 1 && schema.default)) return null;
  const input = element("select", { id: `option-${name}` });
  if (!schema.default) input.append(new Option(name === "background" ? "Leave as it is" : "Default", ""));
  for (const model of usable) {
    for (const weights of model.ready ? [""] : model.weights) {
      const text = weights ? `${model.name} (${weights})` : model.name;
      const option = new Option(text, `${model.slug}/${weights}`);
      option.selected = model.slug === schema.default;
      input.append(option);
    }
  }
  const help = element("p", { className: "help", id: `option-${name}-help` });
  input.setAttribute("aria-describedby", help.id);
  const explain = () => {
    const model = models.find((one) => one.slug === input.value.split("/")[0]);
    help.textContent = model ? model.summary : "";
  };
  input.addEventListener("input", explain);
  explain();
  const title = element("label", { for: input.id }, label(name));
  const row = element("div", { className: "field" }, title, input, help);
  const get = () => (input.value && input.value !== `${schema.default}/` ? input.value : null);
  return { row, under: "", get };
}

// Pairs as the server wants them: a network's weights are a field of their own.
export function asSent(pairs) {
  return pairs.flatMap(([name, value]) => {
    if (typeof value !== "string" || !/^[a-z0-9_+-]+\/[^/]*$/.test(value)) return [[name, value]];
    const [slug, weights] = value.split("/");
    return weights ? [[name, slug], ["weights", weights]] : [[name, slug]];
  });
}
