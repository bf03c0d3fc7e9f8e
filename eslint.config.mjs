// The pages' scripts: plain ones, run one after another in a page, and as modules by node's tests.
const browser = ["document", "window", "location", "history", "navigator", "performance", "Blob", "Response", "URL"];
const clocks = ["matchMedia", "DecompressionStream", "ResizeObserver", "atob", "setTimeout", "clearTimeout"];
const node = ["module", "require", "process"];
const ours = ["Colours", "Attention", "State", "Stage", "Panels", "Charts"];

export default [
  {
    files: ["**/*.js"],
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: "script",
      globals: Object.fromEntries([...browser, ...clocks, ...node, ...ours].map((name) => [name, "readonly"])),
    },
    rules: {
      "no-undef": "error",
      "no-unused-vars": ["error", { varsIgnorePattern: `^(${ours.join("|")})$` }],
      "no-redeclare": ["error", { builtinGlobals: false }],
      "no-shadow": "error",
      "prefer-const": "error",
      "no-var": "error",
      eqeqeq: "error",
      "no-implicit-globals": "off",
      "no-restricted-properties": ["error", { property: "innerHTML" }, { property: "outerHTML" }],
    },
  },
];
