// The words of the chosen language, for every part of the page.

import { createContext, useContext } from "./vendor/preact-htm.js";

export const Words = createContext(null);
export const useWords = () => useContext(Words);
