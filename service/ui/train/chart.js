// The losses of a job as a picture: every point of it, and lines that say what is good.

import { html, useState } from "../core/html.js";
import { number, t } from "../core/words.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [48, 8, 12, 28];

/** Draw a job, and beside it the held-out losses of another to compare with. */
export function Chart({ job, other, scales }) {
  const [isLog, setIsLog] = useState(false);
  const [WIDTH, HEIGHT] = innerWidth < 640 ? [360, 240] : [520, 300]; // so that its words can be read
  const training = job.training.value.filter((one) => Number.isFinite(one.nats));
  const validation = job.validation.value;
  const compared = other ? other.validation.value : [];
  const all = [...training, ...validation, ...compared];
  const lines = scales ? ["uniform", "unigram", "bigram"].map((name) => [name, scales[name]]) : [];
  const values = [...all.map((one) => one.nats), ...lines.map(([, nats]) => nats)];
  const { least, most, ticks } = axis(values.length > 0 ? values : [0, 5]);
  const steps = Math.max(job.progress.value?.n_steps ?? 0, ...all.map((one) => one.step), 2);
  const across = (step) => {
    const share = isLog ? Math.log(Math.max(step, 1)) / Math.log(steps) : step / steps;
    return LEFT + share * (WIDTH - LEFT - RIGHT);
  };
  const down = (nats) => TOP + ((most - nats) / (most - least || 1)) * (HEIGHT - TOP - BOTTOM);
  const through = (points) => points.map((one, at) =>
    `${at ? "L" : "M"}${across(one.step)} ${down(one.nats)}`).join("");
  const last = validation.at(-1);
  const best = validation.findLast((one) => one.isBest);
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
      </g>`)}
      <path class="training" d=${through(training)} />
      ${compared.length > 0 && html`<path class="compared" d=${through(compared)} />`}
      ${validation.map((one) => html`<circle key=${one.step} class=${one === best ? "held best" : "held"}
        cx=${across(one.step)} cy=${down(one.nats)} r=${one === best ? 5 : 3.5} />`)}
      ${lines.map(([name, nats]) => html`<text class="scale" key=${name} x=${WIDTH - RIGHT - 4}
        y=${down(nats) - 4} text-anchor="end">${t(`train.${name}`)}</text>`)}
      <text class="tick" x=${WIDTH - RIGHT} y=${HEIGHT - 8} text-anchor="end">
        ${t("train.steps", { n: number(steps) })}</text>
    </svg>
    <figcaption><span class="muted">${words}${compared.length > 0 && html` <span class="other">${t("train.comparedWords", {
        name: other.reply.value.name, bits: number(compared.at(-1).bits, 3), step: number(compared.at(-1).step),
      })}</span>`}</span>
      <label class="check"><input type="checkbox" checked=${isLog}
        onChange=${(event) => setIsLog(event.target.checked)} /> ${t("train.log")}</label></figcaption>
  </figure>`;
}

/** Return an axis that has all values, and its round ticks. */
function axis(values) {
  const [lowest, highest] = [Math.min(...values), Math.max(...values)];
  const step = [0.05, 0.1, 0.25, 0.5, 1, 2, 5].find((one) => (highest - lowest) / one <= 5) ?? 10;
  const least = Math.floor((lowest - step / 4) / step) * step;
  const n = Math.ceil((highest + step / 4 - least) / step);
  return { least, most: least + n * step, ticks: Array.from({ length: n + 1 }, (_, at) => least + at * step) };
}
