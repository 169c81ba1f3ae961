// The text that the view begins with, and the one that a model writes for it.

/** With a `(` and what follows it often enough for a cell to be told from chance. */
export const START = `The with statement is used to wrap a block of code (see below) with methods that are defined by an object. \
When the block ends (or an exception is raised) the method is called again.

The function returns a list of strings (one for each line in the file) and the number of items. If the argument is \
omitted (or is None) the default value is used. The name of the module (without the extension) is added to the list.

A string is a sequence of characters (each of which is a number in the range of the type). It can be compared with \
other strings (the result is a boolean) and it can be used as a key. The "name" of an object (if there is one) is also \
a string.

The method is called with two arguments (the object and the name of the attribute) and the value is returned. If the \
value cannot be found (for example because the object was deleted) an exception is raised. This is the same as in \
other classes (see the section on classes).

The expression is evaluated in the current scope (which is the function or the module) and the result is stored. If it \
is a number (an integer or a float) it is converted first. All other types (such as lists and dictionaries) are left \
as they are.
`;

const N_TEXTS = 40; // each begins anew, since a parenthesis that is never closed would rule a long one
const TOKENS_OF_EACH = 480;
const SEED = 1;

/** Return about 20,000 characters that a model writes: the same ones, whenever it is asked. */
export async function writtenBy(server, model, text) {
  const prompt = Array.from(text || START).slice(0, 19).join("");
  const { choices } = await server.json("POST", "/v1/completions", {
    model, prompt, n: N_TEXTS, max_tokens: TOKENS_OF_EACH, temperature: 0.7, seed: SEED,
  });
  return choices.map((one) => prompt + one.text).join("\n\n");
}
