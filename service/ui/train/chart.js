// The losses of a job as a picture: every point of it, and lines that say what is good.

import { html, useState } from "../core/html.js";
import { number, t } from "../core/words.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [48, 8, 12, 28];

export function Chart({ job, scales }) {
  const [isLog, setIsLog] = useState(false);
  const [WIDTH, HEIGHT] = innerWidth < 640 ? [360, 240] : [640, 320]; // so that its words can be read
  const training = job.training.value.filter((one) => Number.isFinite(one.nats));
  const validation = job.validation.value;
  const all = [...training, ...validation];
  const lines = scales ? ["uniform", "unigram", "bigram"].map((name) => [name, scales[name]]) : [];
  const values = [...all.map((one) => one.nats), ...lines.map(([, nats]) => nats)];
  const most = values.length > 0 ? Math.max(...values) * 1.05 : 5;
  const least = values.length > 0 ? Math.min(...values) * 0.9 : 0;
  const steps = Math.max(job.progress.value?.n_steps ?? 0, ...all.map((one) => one.step), 2);
  const across = (step) => {
    const share = isLog ? Math.log(Math.max(step, 1)) / Math.log(steps) : step / steps;
    return LEFT + share * (WIDTH - LEFT - RIGHT);
  };
  const down = (nats) => TOP + ((most - nats) / (most - least || 1)) * (HEIGHT - TOP - BOTTOM);
  const path = training.map((one, at) => `${at ? "L" : "M"}${across(one.step)} ${down(one.nats)}`).join("");
  const ticks = Array.from({ length: 5 }, (_, n) => least + ((most - least) * n) / 4);
  const last = validation.at(-1);
  const words = last
    ? t("train.chartWords", { nats: number(last.nats, 3), bits: number(last.bits, 3), step: number(last.step) })
    : t("train.chartEmpty");
  return html`<figure class="chart">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${words}>
      ${ticks.map((nats) => html`<g key=${nats}>
        <line class="grid-line" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${down(nats)} y2=${down(nats)} />
        <text class="tick" x=${LEFT - 6} y=${down(nats) + 4} text-anchor="end">${number(nats, 2)}</text>
      </g>`)}
      ${lines.map(([name, nats]) => html`<g key=${name}>
        <line class="scale-line" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${down(nats)} y2=${down(nats)} />
        <text class="scale" x=${LEFT + 6} y=${down(nats) + 13}>${t(`train.${name}`)}</text>
      </g>`)}
      <path class="training" d=${path} />
      ${validation.map((one) => html`<circle key=${one.step} class=${one.isBest ? "held best" : "held"}
        cx=${across(one.step)} cy=${down(one.nats)} r=${one.isBest ? 5 : 3.5} />`)}
      <text class="tick" x=${WIDTH - RIGHT} y=${HEIGHT - 8} text-anchor="end">
        ${t("train.steps", { n: number(steps) })}</text>
    </svg>
    <figcaption><span class="muted">${words}</span>
      <label class="check"><input type="checkbox" checked=${isLog}
        onChange=${(event) => setIsLog(event.target.checked)} /> ${t("train.log")}</label></figcaption>
  </figure>`;
}
