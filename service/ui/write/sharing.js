// Sharing a text: the link that writes it again, and writing it again from a link.

import { t } from "../core/words.js";
import { encoded, hashOf, stepsOf } from "./link.js";

/** Return the fragment that writes the shown text again, or null where there is none. */
export async function linkOf(writer) {
  const node = await writer.commit();
  if (node === null) return null;
  const text = writer.tree.text(node.id);
  const card = writer.models.value.find((one) => one.id === node.model);
  return encoded({
    model: node.model,
    digest: card?.digest ?? node.digest ?? "",
    steps: stepsOf(writer.tree.path(node.id)),
    hash: hashOf(text),
    length: text.length,
  });
}

/** Write the text of a recipe again, and say whether it is the same. */
export async function replay(writer, recipe) {
  const card = writer.models.value.find((one) => one.id === recipe.model);
  if (!card) throw new Error(t("link.noModel", { model: recipe.model }));
  writer.model.value = card.id;
  await writer.show(null);
  let node = null;
  for (const step of recipe.steps) {
    if (step.typed !== undefined) {
      node = writer.added(node, node?.to ?? 0, "typed", await writer.pieces(step.typed));
      writer.refresh();
    } else if (node !== null) {
      writer.settings.value = { ...step.settings, length: writer.settings.value.length };
      node = await writer.goOn(node, node.to, step.settings);
    }
  }
  if (hashOf(writer.draft) === recipe.hash) writer.say("good", t("link.same"));
  else {
    const isOtherModel = recipe.digest !== "" && card.digest !== recipe.digest;
    writer.say("error", t(isOtherModel ? "link.otherModel" : "link.other"));
  }
}
