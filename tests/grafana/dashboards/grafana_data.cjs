// Grafana's own code, without Grafana: what its table transformations make of frames, and which units it knows.
//   node grafana_data.cjs units                         prints a list of ids
//   node grafana_data.cjs table <{transformations, frames}   prints the rows of the one frame that is left
// A module folder beside this file has @grafana/data.
const { readFileSync } = require("fs");
const { firstValueFrom } = require("rxjs");

// It is made for browsers, and asks them for their language when it lists units.
globalThis.navigator ??= { language: "en", languages: ["en"] };
const grafana = require("@grafana/data");
globalThis.window = {};

const { mergeTransformer, organizeFieldsTransformer } = grafana.standardTransformers;
grafana.standardTransformersRegistry.setInit(() =>
  [mergeTransformer, organizeFieldsTransformer].map((one) => ({
    id: one.id,
    name: one.name,
    transformation: () => Promise.resolve(one),
  })),
);

async function table({ transformations, frames }) {
  const all = await firstValueFrom(grafana.transformDataFrame(transformations, frames));
  return all.map((frame) => {
    const names = frame.fields.map((field) => grafana.getFieldDisplayName(field, frame, all));
    const row = (index) => Object.fromEntries(frame.fields.map((field, place) => [names[place], field.values[index]]));
    return Array.from({ length: frame.length }, (_, index) => row(index));
  });
}

function units() {
  return grafana.getValueFormats().flatMap((one) => one.submenu ?? []).map((one) => one.value);
}

const asked = process.argv[2];
Promise.resolve(asked === "units" ? units() : table(JSON.parse(readFileSync(0)))).then((answer) =>
  process.stdout.write(JSON.stringify(answer)),
);
