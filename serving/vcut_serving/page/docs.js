"use strict";

function add(parent, tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const paths = document.getElementById("paths");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const section = add(paths, "section", "");
      add(section, "h2", `${method.toUpperCase()} ${path}`);
      add(section, "p", about.description ?? "");
      const fields = about.requestBody?.content["multipart/form-data"].schema.properties ?? {};
      const list = add(section, "dl", "");
      for (const [name, field] of Object.entries(fields)) {
        add(list, "dt", `${name} (${field.enum ? field.enum.join(", ") : field.type})`);
        add(list, "dd", field.description);
      }
    }
  }
});
