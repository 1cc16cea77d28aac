window.addEventListener("load", () => {
  const domNode = document.getElementById("swagger-ui");
  window.SwaggerUIBundle({
    domNode,
    url: domNode.dataset.url,
    deepLinking: true,
    docExpansion: "list",
    validatorUrl: null,
  });
});
