// Everything of others that the page's own modules use, so that a version is named in one place.

import { Fragment, h, render } from "../vendor/preact-11.2.0.js";
import {
  useEffect, useId, useLayoutEffect, useMemo, useRef, useState,
} from "../vendor/preact-hooks-11.2.0.js";
import { batch, computed, effect, signal } from "../vendor/preact-signals-2.11.4.js";
import htm from "../vendor/htm-3.1.1.js";

export const html = htm.bind(h);
export {
  Fragment, batch, computed, effect, render, signal,
  useEffect, useId, useLayoutEffect, useMemo, useRef, useState,
};
