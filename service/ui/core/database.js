// The texts that this browser keeps: one store of IndexedDB, which has no limit of 5 MB.

const NAME = "carousel";
const STORE = "texts";

export class Database {
  #opened = null;

  async #run(mode, act) {
    this.#opened ??= new Promise((resolve, reject) => {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const database = await this.#opened;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  get(key) {
    return this.#run("readonly", (store) => store.get(key));
  }

  /** Put what `change` makes of the value; no other page writes between. */
  update(key, change) {
    return this.#run("readwrite", (store) => {
      const request = store.get(key);
      request.onsuccess = () => store.put(change(request.result), key);
      return request;
    });
  }

  clear() {
    return this.#run("readwrite", (store) => store.clear());
  }
}
