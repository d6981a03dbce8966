// What is told of a picture, and where its parts are to be had.

export const thumbnail = (job) => `/api/v1/jobs/${job}/thumbnail`;
export const picture = (job) => `/api/v1/jobs/${job}/objects/image.png?delivery=stream`;
export const trace = (job) => `/jobs/${job}/trace`;
export const prompts = (entry) => entry.prompts.filter(Boolean).join(" + ") || `(${entry.mode})`;

// Names and values, in the order in which people ask for them.
export function facts(entry) {
  const rows = [
    ["Negative", entry.negative],
    ["Model", entry.model],
    ["Size", entry.width && entry.height ? `${entry.width} × ${entry.height}` : ""],
    ["Seed", String(entry.seed)],
    ["Steps", String(entry.steps)],
    ["Guidance", entry.guidance === null ? "" : String(entry.guidance)],
    ["Sampler", entry.sampler],
    ["Schedule", entry.schedule === "model" ? "" : entry.schedule],
    ["Mode", entry.mode],
    ["Losses", entry.losses.join(", ")],
    ["LoRAs", entry.loras.join(", ")],
    ["Finished", `${new Date(entry.finished).toISOString().slice(0, 19).replace("T", " ")} UTC`],
    ["Job", entry.job],
  ];
  return rows.filter(([, value]) => value);
}
