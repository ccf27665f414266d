/** The package's own `specs` directory; as far from the source file as from the built one. */
export const specsDir = new URL("../../specs/", import.meta.url);
